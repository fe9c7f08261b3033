// Package provision makes a fleet: cluster.yaml and hosts in, a cluster that was proven to work out.
//
// It goes in three parts. Plan looks at every host, finds what stands in the way, and tells what would be changed;
// nothing is changed yet, anywhere. Apply changes it: the control plane first, then all hosts at once, and a host that
// fails does not stop the others. Verify waits until the cluster knows every node and puts a volume on each.
// Whatever is killed in between, the same command run again goes on from there.
package provision
