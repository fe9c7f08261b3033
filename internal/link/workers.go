package link

import (
	"sync"
	"sync/atomic"
)

// keptWorkers is how many goroutines wait for the next thing to do. Their stacks have grown already.
const keptWorkers = 32

// workers do what comes, each thing at once: as many as there are things to do, and a few that wait.
type workers struct {
	tasks chan func()
	done  chan struct{}
	ends  sync.Once
	idle  atomic.Int32
}

func newWorkers() *workers { return &workers{tasks: make(chan func()), done: make(chan struct{})} }

// do has f done and does not wait for it.
func (w *workers) do(f func()) {
	select {
	case w.tasks <- f:
	default:
		go w.work(f)
	}
}

func (w *workers) work(f func()) {
	for {
		f()
		if w.idle.Add(1) > keptWorkers {
			w.idle.Add(-1)
			return
		}
		select {
		case f = <-w.tasks:
			w.idle.Add(-1)
		case <-w.done:
			return
		}
	}
}

// close ends those that wait. What comes later is done all the same. It may be called twice.
func (w *workers) close() { w.ends.Do(func() { close(w.done) }) }
