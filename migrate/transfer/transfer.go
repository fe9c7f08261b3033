// Package transfer brings the bytes of a volume from one node to another: a Server offers directory trees, a
// Client pulls them, over mutual TLS. It implements mobyfs.Peer.
//
// Everything that a file has arrives, and is proven to have arrived: both ends compute the same Digest, the
// destination from what it reads back. How is told in protocol.md.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
)

// Sizes that both ends agree on. All but chunkSize are limits.
const (
	chunkSize   = 1 << 20  // of a file's content, aligned; also about the size of a batch
	smallFile   = 64 << 10 // files up to this size travel inside a batch
	maxFrame    = 2 << 20  // the payload of one frame
	maxMeta     = 1 << 20  // one entry's name and metadata
	maxAttr     = 64 << 10 // an extended attribute's value, as in Linux
	maxSegments = 1024     // stretches of data in one chunk
	maxTicket   = 16 << 10 // a ticket
	maxLuggage  = 1 << 20  // what one agent tells the other
	maxText     = 4 << 10  // an error's text or hint
	maxDepth    = 2048     // levels of directories; a path of one-letter names can't be longer
)

// Times.
const (
	idleTimeout      = 60 * time.Second // without a byte from the other end
	handshakeTimeout = 15 * time.Second
	aliveEvery       = 5 * time.Second // signs of life while there is nothing else to send
	progressEvery    = 300 * time.Millisecond
)

// workers is how many goroutines read ahead on the source and write on the destination.
const workers = 4

// corrupt says that the other end sent what it must not send.
func corrupt(format string, args ...any) *mobyfs.Error {
	return mobyfs.Errorf(mobyfs.CodeCorrupt, "the stream is damaged: "+format, args...)
}

// changed says that the source did not keep still.
func changed(path string) error {
	return mobyfs.Errorf(mobyfs.CodeInUse, "%q changed while it was read", path).
		WithHint("stop whatever writes into the volume on its node, then try again")
}

// fault gives an error of this node's operating system its code.
func fault(doing string, err error) error {
	var known *mobyfs.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EFBIG):
		return mobyfs.Errorf(mobyfs.CodeNoSpace, "%s: %w", doing, err).
			WithHint("make room there, or move the volume to another node")
	case errors.As(err, &known):
		return mobyfs.Errorf(known.Code, "%s: %w", doing, err)
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
}

// broken says that the connection failed, or tells what the other end's TLS refused.
func broken(ctx context.Context, doing string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		var known *mobyfs.Error
		if errors.As(cause, &known) {
			return cause
		}
		err = cause
	}
	var known *mobyfs.Error
	if errors.As(err, &known) {
		return err
	}
	return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s: %w", doing, err)
}
