// Package simulation runs the real control plane, three processes of it on one store in memory, against simulated nodes
// for hundreds of hours of virtual time, and looks at the data: that no write of a node that has lost a volume is
// accepted, that no two nodes believe in the same volume at once, and that nothing acknowledged is lost. Volumes are taken
// over, copied when they move, and moved while they are used.
//
// One loop does everything that the world does, in the order of a seeded queue, and lets the control plane come to
// rest after each step. So a seed always gives the same run; its trace has a hash to show it.
package simulation
