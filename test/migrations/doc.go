// Package migrations moves one volume to and fro between real hosts, with a fault in each move, and judges after each
// whether anything that a container acknowledged is lost, whether two ever wrote, and whether the container runs.
//
// The story: lab is three sandbox hosts with programs that are built with named moments, each with a disk of its own that
// can be filled; a container writes records into the volume and tells a ledger of each, which is on none of the hosts. First
// a move of each kind (move.go) goes through undisturbed, in which the programs write down all moments that they come to. So
// a moment that is new in the sources is covered without a word here. plan.go makes the list of faults from that: a kill -9
// at each moment of each program, and cut links and full disks that fall at one. After each move settle.go waits until all
// is quiet, and looks. report.go is the table.
//
// The kernel outlives all of it: what was written and not synced is not lost here, unlike with a host that loses its power.
// The disks are file systems in memory, so that filling one is quick and harms nobody else.
package migrations
