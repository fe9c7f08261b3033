package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mobyfs/mobyfs"
)

// Down removes a fleet: containers, volumes, network and what is written down of it. A fleet that is not there is
// fine. Images stay, for the next Up.
func Down(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	s, err := stateOf(name)
	if err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := takeDown(ctx, name); err != nil {
		return explain(err, "take fleet %s down", name)
	}
	return s.remove()
}

// DownAll removes every fleet that is written down here. Fleets of this machine's Docker that are not, such as those
// of another user or of a test that runs, are left alone and returned; only Down by name removes them.
func DownAll(ctx context.Context) (removed, others []string, err error) {
	fleets, err := List(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range fleets {
		if f.Key == "" {
			others = append(others, f.Name)
			continue
		}
		if err := Down(ctx, f.Name); err != nil {
			return removed, others, err
		}
		removed = append(removed, f.Name)
	}
	return removed, others, nil
}

func takeDown(ctx context.Context, name string) error {
	label := "label=" + labelFleet + "=" + name
	found, err := containers(ctx, label)
	if err != nil {
		return err
	}
	var ids, names []string
	for _, c := range found {
		ids, names = append(ids, c.ID), append(names, c.Name)
	}
	if err := removeContainers(ctx, names); err != nil {
		return err
	}
	volumes, err := lines(ctx, "volume", "ls", "-q", "--filter", label)
	if err != nil {
		return err
	}
	if len(volumes) > 0 { // of containers that were removed without their volumes, by someone else
		if _, err := docker(ctx, append([]string{"volume", "rm", "-f"}, volumes...)...); err != nil {
			return err
		}
	}
	networks, err := lines(ctx, "network", "ls", "-q", "--filter", label)
	if err != nil {
		return err
	}
	for _, n := range networks {
		if err := removeNetwork(ctx, n); err != nil {
			return err
		}
	}
	return removeControlGroups("/sys/fs/cgroup", ids)
}

// removeContainers removes containers with their volumes. Ones that are gone are fine.
func removeContainers(ctx context.Context, names []string) error {
	var errs []error
	for _, name := range names {
		if _, err := docker(ctx, "rm", "-f", "-v", name); err != nil && !isGone(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func removeNetwork(ctx context.Context, name string) error {
	_, err := docker(ctx, "network", "rm", name)
	if err != nil && !isGone(err) {
		return err
	}
	return nil
}

// RemoveImages removes the images that were made for hosts, and tells which. Those that hosts still use stay.
func RemoveImages(ctx context.Context) ([]string, error) {
	unlock, err := lockImages(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := sweepBuilds(ctx); err != nil {
		return nil, err
	}
	tags, err := lines(ctx, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", imageName)
	if err != nil {
		return nil, err
	}
	var removed []string
	for _, tag := range tags {
		users, err := lines(ctx, "ps", "-aq", "--filter", "ancestor="+tag)
		if err != nil {
			return removed, err
		}
		if len(users) > 0 {
			continue
		}
		if _, err := docker(ctx, "rmi", tag); err != nil {
			return removed, err
		}
		removed = append(removed, tag)
	}
	return removed, nil
}

// removeControlGroups removes what a host with cgroups v1 may leave below a container's own group, for each
// controller. Docker removes them itself where it can.
func removeControlGroups(root string, ids []string) error {
	for _, id := range ids {
		for _, pattern := range []string{"docker/" + id, "*/docker/" + id} {
			groups, err := filepath.Glob(filepath.Join(root, pattern))
			if err != nil {
				return err
			}
			for _, g := range groups {
				if err := removeControlGroup(g); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// removeControlGroup removes a group and those below it. Their files can't be removed and need not be.
func removeControlGroup(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil // one that vanishes meanwhile is fine
	})
	if err != nil {
		return err
	}
	slices.Reverse(dirs)
	for _, d := range dirs {
		if err := os.Remove(d); err != nil && !errors.Is(err, os.ErrNotExist) {
			return mobyfs.Errorf(mobyfs.CodeInternal, "remove control group: %w", err).
				WithHint("processes of the host may still run: %s", strings.TrimSpace(processesIn(d)))
		}
	}
	return nil
}

func processesIn(group string) string {
	b, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(string(b), "\n", " ")
}
