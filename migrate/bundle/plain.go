package bundle

import (
	"io"
)

// plain is a connection of protocol 1, or one of which it is not known yet what it will be: bytes as they are.
type plain struct {
	conn   io.ReadWriter
	wire   *wire
	limit  *limit // of what is read: the other end does not know limits, but feels that nobody reads
	unread []byte // was looked at only
}

// newPlain makes of a connection one of protocol 1.
func newPlain(l *lane) *Conn {
	return &Conn{lanes: []*lane{l}, plain: &plain{conn: l.tls, wire: l.wire, limit: newLimit(nil)}}
}

func (p *plain) read(b []byte) (int, error) {
	if len(p.unread) > 0 {
		n := copy(b, p.unread)
		p.unread = p.unread[n:]
		return n, nil
	}
	n, err := p.conn.Read(b)
	if n > 0 {
		if e := p.limit.wait(n); err == nil {
			err = e
		}
	}
	return n, err
}
