// Package peer holds the driver to what Docker itself makes of it: Docker's own plugin client and volume store, as
// they are inside dockerd, run here against the driver's socket, without a dockerd and without root.
//
// Behind the driver stands either a Mounter that a test plays, or a real agent with a real control plane.
//
// The package is a module of its own, so that Docker's code never enters the product's graph. Two lists of modules
// give two ages of Docker to the same tests: go.mod that of 28.5, v20.mod that of 20.10.
//
//	go test ./...
//	go test -modfile=v20.mod ./...
package peer
