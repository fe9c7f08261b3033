// Package movebench measures moves of volumes against what people use instead: rsync, tar and nc, btrfs send, all of Debian.
// It has no other tests; `make bench-move` runs it, and writes docs/benchmarks-move.md.
package movebench
