// Package chaos runs a whole cluster of real programs on hosts that are namespaces, uses it as dockerds and operators do,
// lets faults happen to it, and then checks what came of it: the data in the volumes, the history of the calls, and the
// log of events.
//
// The story: Cluster is the programs, each on a host of package network, on a disk of its own (disk.go) and with
// certificates as bootstrap makes them. workload is what they are used for: containers that come and go and write into
// their volumes (container, journal), some of which begin anew on another node when theirs is silent, an operator who moves
// volumes, and nodes without an agent that claim volumes as fast as control answers. nemesis lets faults happen (faults.go,
// moments.go, newer.go), some for so long that what a node has is given to others. history is what was seen, verdict what
// is wrong with it (check.go, model.go, dump.go). run is all of it, from the start to the table.
//
// Everything runs in namespaces of the test's own, so it all ends with the test, however that ends: processes, mounts,
// networks. docs/decisions/0038 tells why it is built so.
package chaos
