package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
)

// clusterStatus is the cluster on one screen.
type clusterStatus struct {
	Cluster  string   `json:"cluster"`
	Version  string   `json:"version"` // of control
	Nodes    int      `json:"nodes"`
	Ready    int      `json:"ready"`
	Volumes  int      `json:"volumes"`
	InUse    int      `json:"in_use"`
	Moving   int      `json:"moving"`
	Warnings []string `json:"warnings"`
}

func newStatusCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the cluster on one screen; exits 2 when something is wrong with it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			cluster, err := c.Cluster(cmd.Context())
			if err != nil {
				return err
			}
			nodes, err := c.Nodes(cmd.Context())
			if err != nil {
				return err
			}
			volumes, err := c.Volumes(cmd.Context())
			if err != nil {
				return err
			}
			s := statusOf(nodes, volumes)
			s.Cluster, s.Version = cluster.Cluster, cluster.Version
			s.Warnings = append(s.Warnings, shortOfRoom(cluster.Rooms)...)
			for _, u := range cluster.Unreadable {
				s.Warnings = append(s.Warnings, fmt.Sprintf("the record %s can't be read: %s", u.Key, u.Cause))
			}
			if cluster.BackupDue || cluster.Restore != nil {
				s.Warnings = append(s.Warnings, controlLines(controlStatus{cluster.Backup, cluster.Restore, cluster.BackupDue}, time.Now())...)
			}
			if err := a.print(s, func(w io.Writer) { printStatus(w, s) }); err != nil {
				return err
			}
			if len(s.Warnings) > 0 {
				return &exitCode{code: exitPending}
			}
			return nil
		},
	}
}

// shortOfRoom says which members of the store have little room, and what becomes of that.
func shortOfRoom(rooms []api.Room) []string {
	var all []string
	for _, r := range rooms {
		switch r.Level {
		case "low":
			all = append(all, fmt.Sprintf("the store has little room on %s: %s", r.Member, r.Cause))
		case "full":
			all = append(all, fmt.Sprintf("the store is full on %s: %s; control makes room, and until then no new volume, node or token is recorded", r.Member, r.Cause))
		}
	}
	return all
}

// statusOf counts, and says what an operator should look at.
func statusOf(nodes []mobyfs.Node, volumes []mobyfs.Volume) clusterStatus {
	s := clusterStatus{Nodes: len(nodes), Volumes: len(volumes), Warnings: []string{}}
	silent := map[string]bool{}
	for _, n := range nodes {
		if n.Rival(time.Now()) {
			s.Warnings = append(s.Warnings, fmt.Sprintf("two machines speak for node %s: take mobyfs off one of them, or shut both out: mobyctl ca revoke node %s", n.Name, n.Name))
		}
		if n.Ready {
			s.Ready++
			continue
		}
		silent[n.Name] = true
		s.Warnings = append(s.Warnings, fmt.Sprintf("node %s is %s", n.Name, nodeState(n)))
	}
	for _, v := range volumes {
		if v.Lease != nil {
			s.InUse++
		}
		if v.Migration != nil {
			s.Moving++
		}
		if silent[v.Node] {
			s.Warnings = append(s.Warnings, fmt.Sprintf("volume %s can't be reached: its bytes are on %s", v.Name, v.Node))
		}
	}
	return s
}

func printStatus(w io.Writer, s clusterStatus) {
	fmt.Fprintf(w, "mobyfs %s %s   nodes %d/%d ready   volumes %d (%d in use, %d moving)\n",
		s.Cluster, s.Version, s.Ready, s.Nodes, s.Volumes, s.InUse, s.Moving)
	for _, warning := range s.Warnings {
		fmt.Fprintf(w, "  ▲ %s\n", warning)
	}
}
