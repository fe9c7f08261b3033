// Package scale measures the control plane by itself: mobyfs-control in a process of its own, and its callers in this
// one, over mutual TLS on loopback. Its tests are built with the tag bench.
package scale
