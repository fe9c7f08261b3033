package host

import (
	"io"
	"net"
	"os"
	"testing"
)

// TestMain is also the program that TestProxyCommand runs as its proxy: it joins stdin and stdout to a connection.
func TestMain(m *testing.M) {
	if os.Getenv("MOBYFS_TEST_NETCAT") != "" && len(os.Args) == 3 {
		conn, err := net.Dial("tcp", net.JoinHostPort(os.Args[1], os.Args[2]))
		if err != nil {
			os.Exit(1)
		}
		go func() { _, _ = io.Copy(conn, os.Stdin) }()
		_, _ = io.Copy(os.Stdout, conn)
		os.Exit(0)
	}
	os.Exit(m.Run())
}
