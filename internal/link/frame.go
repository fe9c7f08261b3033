// Package link carries HTTP requests over one connection that costs little while nothing goes on in it: no goroutine with
// a deep stack, no buffers, no chain of certificates. design.md tells what is sent.
package link

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// kind is what a frame is.
type kind uint8

// What a client sends, and what a server sends.
const (
	kindCall   kind = 1 + iota // a request, whole
	kindCancel                 // nobody waits for the answer any more
	kindWindow                 // so many more bytes of an answer may be sent
	kindPing
	kindAnswer // an answer, whole
	kindBegin  // the head of an answer whose body follows
	kindData   // a part of that body
	kindEnd    // no more of it comes; with a text, it is not whole
	kindPong
	kindBye // nothing more should be asked here
)

const (
	frameHeader = 8         // bytes: 3 of the payload's length, 1 of the kind, 4 of the call's number; big endian
	maxPayload  = 1<<24 - 1 // bytes that a length can say
	maxPart     = 64 << 10  // bytes of a body in one frame
	maxReason   = 1 << 10   // bytes of why an answer is not whole
	// window is how many bytes of an answer are on their way at most that nobody has read yet.
	window = 256 << 10
)

// frame is what is sent at once.
type frame struct {
	kind    kind
	call    uint32 // the number of the call that it belongs to, 0 of none
	payload []byte
}

// limits are how large the payloads may be of the frames that one side takes. Others it does not take.
type limits map[kind]int

// limitsOfClients are what a server takes from a client whose requests have bodies of up to so many bytes.
func limitsOfClients(maxBody int) limits {
	return limits{kindCall: maxHead + maxBody, kindCancel: 0, kindWindow: 4, kindPing: 0}
}

// limitsOfServers are what a client takes.
var limitsOfServers = limits{kindAnswer: maxHead + maxPart, kindBegin: maxHead, kindData: maxPart, kindEnd: maxReason, kindPong: 0, kindBye: 0}

// errProtocol is what the other side may not send.
var errProtocol = errors.New("not the protocol")

// cut takes the first frame off b; ok is false if it is not whole yet. What may not be sent is refused before it is
// there. The payload lies in b.
func (l limits) cut(b []byte) (f frame, rest []byte, ok bool, err error) {
	if len(b) < frameHeader {
		return f, b, false, nil
	}
	head := binary.BigEndian.Uint32(b)
	size := int(head >> 8)
	f.kind, f.call = kind(head), binary.BigEndian.Uint32(b[4:])
	most, known := l[f.kind]
	if !known || size > most {
		return f, b, false, fmt.Errorf("%w: a frame of kind %d with %d bytes", errProtocol, f.kind, size)
	}
	if len(b) < frameHeader+size {
		return f, b, false, nil
	}
	f.payload = b[frameHeader : frameHeader+size : frameHeader+size]
	return f, b[frameHeader+size:], true, nil
}

// open appends the header of a frame whose payload follows; seal completes it.
func (f frame) open(b []byte) []byte {
	b = append(b, 0, 0, 0, byte(f.kind))
	return binary.BigEndian.AppendUint32(b, f.call)
}

// seal writes into the header of the frame that begins at from how long its payload has become. It reports false if that
// is more than a frame can have.
func seal(b []byte, from int) bool {
	size := len(b) - from - frameHeader
	if size > maxPayload {
		return false
	}
	b[from], b[from+1], b[from+2] = byte(size>>16), byte(size>>8), byte(size)
	return true
}

// append appends the frame.
func (f frame) append(b []byte) []byte {
	from := len(b)
	b = append(f.open(b), f.payload...)
	seal(b, from)
	return b
}
