package bundle

import (
	"crypto/rand"
	"encoding/binary"
	"io"
)

// What is said on a connection before blocks are. It has the form of protocol 1's frames (type, length as 4 bytes,
// payload), and the opening is one that a node of protocol 1 takes for the greeting of a protocol that it does not know.

const (
	typeHello  = 1
	typeError  = 9
	typeOpened = 64

	typedHead   = 1 + 4
	maxHello    = 16<<10 + 16 // as in protocol 1
	maxRefusal  = 12 << 10
	magic       = "mobyfs pull "
	sessionSize = 16
)

// session names a bundle. It is known to its two ends only.
type session [sessionSize]byte

func newSession() (s session) {
	_, _ = rand.Read(s[:]) // it can't fail
	return s
}

// opening is the first thing that a client says on each connection.
type opening struct {
	session session
	count   int // connections that it wants
	index   int // which of them this is; 0 opens the session, the others join it
}

const openingSize = sessionSize + 2

// encode is a frame of protocol 1: a hello with the opening in the place of the ticket.
func (o opening) encode() []byte {
	p := binary.AppendUvarint([]byte(magic), Protocol2)
	p = binary.AppendUvarint(p, openingSize)
	p = append(append(p, o.session[:]...), byte(o.count), byte(o.index))
	return append(typed(typeHello, len(p)), p...)
}

func typed(t byte, length int) []byte {
	return binary.BigEndian.AppendUint32([]byte{t}, uint32(length))
}

// decodeOpening takes the payload of a hello. It is nil if that is of another protocol than this one.
func decodeOpening(b []byte) (*opening, error) {
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return nil, nil
	}
	b = b[len(magic):]
	protocol, n := binary.Uvarint(b)
	if n <= 0 || protocol != Protocol2 {
		return nil, nil
	}
	b = b[n:]
	length, n := binary.Uvarint(b)
	if n <= 0 || length != openingSize || len(b)-n != openingSize {
		return nil, corrupt("the opening of a connection has another length")
	}
	b = b[n:]
	o := &opening{count: int(b[sessionSize]), index: int(b[sessionSize+1])}
	copy(o.session[:], b)
	if o.count < 1 || o.count > MaxConnections || o.index >= o.count {
		return nil, corrupt("connection %d of %d", o.index, o.count)
	}
	return o, nil
}

// readTyped reads one frame whose payload is limit bytes at most. What was read is returned with any error, too.
func readTyped(r io.Reader, limit func(t byte) int) (all []byte, err error) {
	all = make([]byte, typedHead)
	n, err := io.ReadFull(r, all)
	if err != nil {
		return all[:n], err
	}
	length := binary.BigEndian.Uint32(all[1:])
	if int64(length) > int64(limit(all[0])) {
		return all, corrupt("a frame of type %d and %d bytes", all[0], length)
	}
	all = append(all, make([]byte, length)...)
	n, err = io.ReadFull(r, all[typedHead:])
	return all[:typedHead+n], err
}
