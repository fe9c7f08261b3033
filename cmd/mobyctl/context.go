package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// clusterContext is how mobyctl finds a cluster again. Bootstrap writes it, in <config>/mobyfs/<cluster>/, beside
// the operator's key and certificate (operator.key, operator.crt, ca.crt).
type clusterContext struct {
	Cluster string   `json:"cluster"`
	Control []string `json:"control"` // host:port of each control process
}

// contextRoot is where contexts lie: $MOBYFS_HOME, or mobyfs in the user's configuration directory.
func contextRoot() (string, error) {
	if dir := os.Getenv("MOBYFS_HOME"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "mobyfs"), nil
}

// contextDir is the directory of one cluster's context.
func contextDir(cluster string) (string, error) {
	root, err := contextRoot()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, cluster), nil
}

// operatorFiles is where the operator's identity in a cluster lies.
func operatorFiles(cluster string) (pki.Files, error) {
	dir, err := contextDir(cluster)
	return pki.FilesIn(dir, "operator"), err
}

// saveContext writes the context and makes it the current one.
func saveContext(c clusterContext) error {
	dir, err := contextDir(c.Cluster)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := durable.WriteJSON("mobyctl.context", filepath.Join(dir, "context.json"), c, 0o600); err != nil {
		return err
	}
	return durable.WriteFile("mobyctl.current", filepath.Join(filepath.Dir(dir), "current"), []byte(c.Cluster+"\n"), 0o600)
}

// dropContext forgets a cluster that reset has taken down.
func dropContext(cluster string) error {
	dir, err := contextDir(cluster)
	if err != nil {
		return err
	}
	current := filepath.Join(filepath.Dir(dir), "current")
	if name, err := os.ReadFile(current); err == nil && strings.TrimSpace(string(name)) == cluster {
		if err := durable.Remove("mobyctl.current", current); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(dir)) // goes if this was the last cluster
	return nil
}

// loadContext finds the cluster that --cluster names, or the one bootstrapped last.
func (a *app) loadContext() (clusterContext, error) {
	root, err := contextRoot()
	if err != nil {
		return clusterContext{}, err
	}
	name := a.cluster
	if name == "" {
		current, err := os.ReadFile(filepath.Join(root, "current"))
		if errors.Is(err, fs.ErrNotExist) {
			return clusterContext{}, mobyfs.Errorf(mobyfs.CodeInvalid, "no cluster is known here").
				WithHint("make one with mobyctl bootstrap, or set MOBYFS_HOME to where one was made")
		}
		if err != nil {
			return clusterContext{}, err
		}
		name = strings.TrimSpace(string(current))
	}
	if err := mobyfs.CheckNodeName(name); err != nil {
		return clusterContext{}, mobyfs.Errorf(mobyfs.CodeInvalid, "%q can't be the name of a cluster", name)
	}
	var c clusterContext
	err = durable.ReadJSON(filepath.Join(root, name, "context.json"), &c)
	if errors.Is(err, fs.ErrNotExist) {
		return clusterContext{}, mobyfs.Errorf(mobyfs.CodeNotFound, "cluster %q is not known here", name).
			WithHint("known are: %s", strings.Join(knownClusters(root), ", "))
	}
	return c, err
}

func knownClusters(root string) []string {
	found, _ := filepath.Glob(filepath.Join(root, "*", "context.json"))
	if len(found) == 0 {
		return []string{"none"}
	}
	names := make([]string, len(found))
	for i, f := range found {
		names[i] = filepath.Base(filepath.Dir(f))
	}
	return names
}

// client connects to the control plane of the cluster that is meant.
func (a *app) client() (*api.Client, error) {
	c, _, err := a.clientFiles()
	return c, err
}

// clientFiles is client, and tells where the identity lies that it shows. That is renewed in time.
func (a *app) clientFiles() (*api.Client, pki.Files, error) {
	c, err := a.loadContext()
	if err != nil {
		return nil, pki.Files{}, err
	}
	files, err := operatorFiles(c.Cluster)
	if err != nil {
		return nil, files, err
	}
	tlsConfig, err := files.ClientTLS(pki.RoleControl, "control")
	if err != nil {
		return nil, files, err
	}
	client := api.NewClient(c.Control, tlsConfig)
	a.renewInTime(client, files)
	return client, files, nil
}
