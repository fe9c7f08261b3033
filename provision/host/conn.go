package host

import (
	"bytes"
	"io"
	"net"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"
)

// listening is a connection that keeps the first words of the far side: sshd says there why it turns us away.
type listening struct {
	net.Conn
	late atomic.Bool // the handshake took too long
	mu   sync.Mutex
	head []byte
}

func (l *listening) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	l.mu.Lock()
	if room := 256 - len(l.head); room > 0 {
		l.head = append(l.head, p[:min(n, room)]...)
	}
	l.mu.Unlock()
	return n, err
}

func (l *listening) heard() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.head)
}

// lastWords is how long a proxy program may take to end by itself once its connection is closed, and how long its
// complaints are waited for.
const lastWords = 500 * time.Millisecond

// proxy is a connection through a program: what ProxyCommand names, or ssh -W through a jump host.
type proxy struct {
	io.Reader
	io.WriteCloser
	cmd    *exec.Cmd
	stderr *tail
	once   sync.Once
	ended  chan struct{} // closed once the program has ended and all it complained about was read
}

func startProxy(t Target, s settings) (net.Conn, error) {
	p := &proxy{cmd: exec.Command(s.proxy[0], s.proxy[1:]...), stderr: &tail{}, ended: make(chan struct{})}
	p.cmd.Stderr = p.stderr
	p.cmd.WaitDelay = lastWords // something that it started may keep its stderr open
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.WriteCloser, p.Reader = in, out
	if err := p.cmd.Start(); err != nil {
		return nil, Unreachable.Problem(t.Name, "start the proxy of the SSH configuration: %w", err)
	}
	return p, nil
}

// said is what the program complained about. It is called after Close and waits for the program's end, for a program
// that fails closes its connection before its complaint was read.
func (p *proxy) said() string {
	select {
	case <-p.ended:
	case <-time.After(4 * lastWords):
	}
	return p.stderr.String()
}

// Close ends the connection at once and the program soon: by itself, as its input has ended, or by force.
func (p *proxy) Close() error {
	p.once.Do(func() {
		_ = p.WriteCloser.Close()
		kill := time.AfterFunc(lastWords, func() { _ = p.cmd.Process.Kill() })
		go func() {
			defer close(p.ended)
			defer kill.Stop()
			_ = p.cmd.Wait()
		}()
	})
	return nil
}

func (p *proxy) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (p *proxy) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (p *proxy) SetDeadline(time.Time) error      { return nil }
func (p *proxy) SetReadDeadline(time.Time) error  { return nil }
func (p *proxy) SetWriteDeadline(time.Time) error { return nil }

// tail keeps the last 4 KiB that were written.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - 4096; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
