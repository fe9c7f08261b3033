package bundle

import (
	"context"
	"crypto/tls"
	"io"
	"net"
)

// handshake speaks TLS over a new connection, within handshakeTimeout.
func handshake(ctx context.Context, w *wire, c *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	w.buffer()
	return nil
}

// bulk returns the TLS configuration with records of full size from the start.
func bulk(cfg *tls.Config) *tls.Config {
	cfg = cfg.Clone()
	cfg.DynamicRecordSizingDisabled = true
	if of := cfg.GetConfigForClient; of != nil {
		cfg.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := of(h)
			if c != nil {
				c = c.Clone()
				c.DynamicRecordSizingDisabled = true
			}
			return c, err
		}
	}
	return cfg
}

// linger ends the writing side and waits a moment for the other end to do the same. See Conn.Linger.
func linger(c net.Conn) {
	half, ok := c.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.SetReadDeadline(deadline(lingerTime)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c)
}
