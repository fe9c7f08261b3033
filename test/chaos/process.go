package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/mobyfs/mobyfs/test/chaos/network"
)

// restartAfter is how long a program that ended by itself, or was killed, stays away, as systemd has it.
const restartAfter = 300 * time.Millisecond

// process is a program on a host that is started again whenever it ends, until it is halted.
type process struct {
	name string
	host *network.Host
	args func() []string // of the next start; the first is the program
	env  []string
	log  string // file

	mu     sync.Mutex
	cmd    *exec.Cmd
	wanted bool
	starts int
	ended  chan struct{} // closed when the loop that starts it has ended
}

// start starts the program and keeps it running.
func (p *process) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted {
		return
	}
	p.wanted, p.ended = true, make(chan struct{})
	go p.keep(p.ended)
}

func (p *process) keep(ended chan struct{}) {
	defer close(ended)
	for {
		cmd, err := p.launch()
		if cmd == nil && err == nil {
			return
		}
		if err == nil {
			_ = cmd.Wait()
		} else {
			p.note("it can't be started: %v", err)
		}
		p.mu.Lock()
		p.cmd = nil
		wanted := p.wanted
		p.mu.Unlock()
		if !wanted {
			return
		}
		time.Sleep(restartAfter)
	}
}

// launch starts the program once; nil without an error if it is not wanted any more.
func (p *process) launch() (*exec.Cmd, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.wanted {
		return nil, nil
	}
	args := p.args()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), p.env...)
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := p.host.Do(cmd.Start); err != nil {
		return nil, err
	}
	p.cmd = cmd
	p.starts++
	return cmd, nil
}

// signal sends a signal to the program if it runs.
func (p *process) signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return errors.New(p.name + " does not run")
	}
	p.note("signal: %v", s)
	return p.cmd.Process.Signal(s)
}

// pid is that of the program if it runs.
func (p *process) pid() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0, errors.New(p.name + " does not run")
	}
	return p.cmd.Process.Pid, nil
}

// halt ends the program with a signal and does not start it again. It may be called twice.
func (p *process) halt(s syscall.Signal) {
	p.mu.Lock()
	ended := p.ended
	p.wanted = false
	cmd := p.cmd
	p.mu.Unlock()
	if ended == nil {
		return
	}
	if cmd != nil {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Signal(s)
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		p.note("it did not end; it is killed")
		if cmd != nil {
			_ = cmd.Process.Kill()
		}
		<-ended
	}
}

// note writes a line into the program's log.
func (p *process) note(format string, args ...any) {
	f, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "--- chaos %s: %s\n", time.Now().Format("15:04:05.000"), fmt.Sprintf(format, args...))
}
