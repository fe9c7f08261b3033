// Package network connects hosts that are network namespaces, by a switch in this process: each frame from one host to
// another passes through it, so a link can be cut in one direction, slow, long or lossy, at once and without a trace.
// The kernel's own means can do part of that (tc tbf), and netem, which can do most, is not in every kernel.
//
// Nothing outlives the process: a namespace ends with its last process and thread, and its interface with it. Close ends
// a network before, so that another one of its number can be made.
package network

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const mtu = 9000

// Way is how frames go from one host to another. The zero value passes them at once.
type Way struct {
	Cut   bool
	Delay time.Duration
	Loss  float64 // share of frames that are dropped
	Rate  int     // bytes a second; 0 is no limit
}

// Network is a switch and its hosts.
type Network struct {
	subnet int
	mu     sync.RWMutex
	hosts  []*Host
	links  map[[2]int]*link
	closed bool
}

// New makes a network without hosts. Those of one process differ in their number, from 0 to 255.
func New(number int) *Network { return &Network{subnet: number, links: map[[2]int]*link{}} }

// Host is a namespace on the network. Once it was booted it has processes and mounts of its own, too.
type Host struct {
	Name   string
	IP     string // its address
	number int
	device string
	port   *os.File
	inside chan func()
	gone   chan struct{} // closed with the network
	frames atomic.Int64  // that it has sent
	pulled atomic.Bool   // its cable is

	outside outside // namespaces that it came from
	first   *exec.Cmd
}

// outside are the namespaces of this process, for a host that begins anew.
type outside struct {
	pids, mounts int
}

// Join makes a namespace with an address on the network.
func (n *Network) Join(name string) (*Host, error) { return n.join(name, true) }

// JoinHere gives the namespace of this process an address on the network.
func (n *Network) JoinHere(name string) (*Host, error) { return n.join(name, false) }

func (n *Network) join(name string, apart bool) (*Host, error) {
	n.mu.Lock()
	number := len(n.hosts) + 1
	n.mu.Unlock()
	h := &Host{Name: name, IP: fmt.Sprintf("10.9.%d.%d", n.subnet, number), number: number, device: fmt.Sprintf("net%d", n.subnet), inside: make(chan func()), gone: make(chan struct{})}
	ready := make(chan error)
	go h.live(apart, ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("make the network of %s: %w", name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errors.Join(fmt.Errorf("make the network of %s: it was closed", name), h.leave())
	}
	n.hosts = append(n.hosts, h)
	go n.carry(h)
	return h, nil
}

// Close takes all interfaces away. What was started in the hosts' namespaces goes on without. It may be called twice.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	var err error
	for _, h := range n.hosts {
		err = errors.Join(err, h.leave())
	}
	for _, l := range n.links {
		l.close()
	}
	return err
}

// leave ends the host's thread and takes its interface away.
func (h *Host) leave() error {
	close(h.gone)
	return h.port.Close()
}

// live makes the namespace and does what Do is given in it. Its thread never serves anything else: a process that it
// starts is killed when the thread ends, that is, with this process.
func (h *Host) live(apart bool, ready chan<- error) {
	runtime.LockOSThread()
	err := h.open(apart)
	ready <- err
	if err != nil {
		return
	}
	for {
		select {
		case do := <-h.inside:
			do()
		case <-h.gone:
			return
		}
	}
}

func (h *Host) open(apart bool) error {
	if apart {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(h.device)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("make an interface: %w", err)
	}
	h.port = os.NewFile(uintptr(fd), h.device+" of "+h.Name)
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "set", h.device, "address", h.hardware().String(), "mtu", fmt.Sprint(mtu), "up"},
		{"addr", "add", h.IP + "/24", "dev", h.device},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	return nil
}

func (h *Host) hardware() net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, byte(h.number)} }

// Do does something in the host's namespace, such as starting a process, and waits for it.
func (h *Host) Do(do func() error) error {
	done := make(chan error, 1)
	select {
	case h.inside <- func() { done <- do() }:
		return <-done
	case <-h.gone:
		return fmt.Errorf("the network of %s was closed", h.Name)
	}
}

// Pull takes the host's cable out, or puts it in again, whatever the ways to and from it are.
func (h *Host) Pull(out bool) { h.pulled.Store(out) }

// Set changes the way from one host to another, in that direction.
func (n *Network) Set(from, to *Host, w Way) {
	n.link(from.number, to.number).set(w)
}

// SetBoth changes the way in both directions.
func (n *Network) SetBoth(a, b *Host, w Way) {
	n.Set(a, b, w)
	n.Set(b, a, w)
}

func (n *Network) link(from, to int) *link {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := [2]int{from, to}
	if n.links[key] == nil {
		n.links[key] = &link{queue: make(chan queued, 1024), end: make(chan struct{})}
	}
	return n.links[key]
}

// carry takes what a host sends to where it is addressed.
func (n *Network) carry(from *Host) {
	frame := make([]byte, mtu+100)
	for {
		size, err := from.port.Read(frame)
		if err != nil {
			return
		}
		if size < 14 || from.pulled.Load() {
			continue
		}
		from.frames.Add(1)
		to := int(frame[5])
		everybody := frame[0]&1 != 0
		n.mu.RLock()
		hosts := n.hosts
		n.mu.RUnlock()
		for _, h := range hosts {
			if h != from && !h.pulled.Load() && (everybody || h.number == to) {
				n.pass(from, h, frame[:size])
			}
		}
	}
}

const arp = 0x0806

// pass delivers a frame as the way allows. Questions for hardware addresses always pass, so that a host that was cut
// off is found at once when it is back.
func (n *Network) pass(from, to *Host, frame []byte) {
	n.mu.RLock()
	l := n.links[[2]int{from.number, to.number}]
	n.mu.RUnlock()
	if l == nil || int(frame[12])<<8|int(frame[13]) == arp {
		_, _ = to.port.Write(frame)
		return
	}
	l.pass(to, frame)
}

// link is a way that is not the plain one, or was not once.
type link struct {
	mu      sync.Mutex
	way     Way
	free    time.Time // when what was sent before will have gone, at the rate
	queue   chan queued
	end     chan struct{} // closed with the network
	started bool
}

type queued struct {
	frame []byte
	due   time.Time
	to    *Host
}

func (l *link) set(w Way) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.way, l.free = w, time.Time{}
}

// longest is how much the rate may keep a frame waiting before it is dropped.
const longest = 500 * time.Millisecond

func (l *link) pass(to *Host, frame []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.way
	switch {
	case w.Cut, w.Loss > 0 && rand.Float64() < w.Loss:
		return
	case w.Delay == 0 && w.Rate == 0:
		_, _ = to.port.Write(frame)
		return
	}
	now := time.Now()
	due := now.Add(w.Delay)
	if w.Rate > 0 {
		if l.free.Before(now) {
			l.free = now
		}
		if l.free.Sub(now) > longest {
			return
		}
		l.free = l.free.Add(time.Duration(len(frame)) * time.Second / time.Duration(w.Rate))
		due = l.free.Add(w.Delay)
	}
	if !l.started {
		l.started = true
		go l.deliver()
	}
	select {
	case l.queue <- queued{append([]byte(nil), frame...), due, to}:
	default: // a full queue drops, as a switch does
	}
}

func (l *link) close() { close(l.end) }

func (l *link) deliver() {
	for {
		select {
		case q := <-l.queue:
			time.Sleep(time.Until(q.due))
			_, _ = q.to.port.Write(q.frame)
		case <-l.end:
			return
		}
	}
}
