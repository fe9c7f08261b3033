package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"

	"golang.org/x/net/netutil"

	"github.com/mobyfs/mobyfs/internal/caller"
)

// maxCallers is how many calls are answered at once; more wait in the socket until one has ended. Docker makes one for
// each container that starts or stops, and none takes longer than two minutes.
const maxCallers = 1024

// guarded lets in at a socket whom the driver serves, and maxCallers at once: at a unix socket root alone. A stranger is
// told why.
func guarded(l net.Listener, log *slog.Logger) net.Listener {
	if _, local := l.Addr().(*net.UnixAddr); local {
		l = caller.RootOnly(l, log, forbid)
	}
	return netutil.LimitListener(l, maxCallers)
}

// forbid answers as the driver does, to who has not been heard.
func forbid(conn net.Conn, why string) error {
	body, err := json.Marshal(map[string]string{"Err": why + " – use docker, or sudo"})
	if err == nil {
		_, err = fmt.Fprintf(conn, "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
	}
	return err
}
