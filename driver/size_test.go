package driver

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// However many bytes a call has, and however long its head takes: the driver holds a mebibyte of it, for seconds.
func TestAttackCallsThatAreTooLargeOrTooSlow(t *testing.T) {
	m := &fake{}
	socket := serve(t, m)
	for name, raw := range map[string]string{
		"a body of two mebibytes": asDocker("VolumeDriver.Create", `{"Name":"`+strings.Repeat("x", 2<<20)+`"}`),
		"a head of a mebibyte":    "POST /VolumeDriver.Create HTTP/1.1\r\nHost: x\r\nX-Long: " + strings.Repeat("x", 1<<20) + "\r\n\r\n",
	} {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		go func() { _, _ = io.WriteString(c, raw) }() // it may be cut off in the middle
		answer, _ := io.ReadAll(c)
		_ = c.Close()
		if strings.HasPrefix(string(answer), "HTTP/1.1 200") && !strings.Contains(string(answer), "larger than 1 MiB") {
			t.Errorf("%s: answered with %q", name, answer)
		}
	}
	var waiting sync.WaitGroup
	for name, raw := range map[string]string{
		"a head that never ends": "POST /VolumeDriver.Remove HTTP/1.1\r\nHost: x\r\nX-Slow: ",
		"a body that never ends": strings.TrimSuffix(asDocker("VolumeDriver.Remove", `{"Name":"pgdata"}`), "}"),
	} {
		waiting.Go(func() {
			slow, err := net.Dial("unix", socket)
			if err != nil {
				t.Error(err)
				return
			}
			defer slow.Close()
			_, _ = io.WriteString(slow, raw)
			_ = slow.SetReadDeadline(time.Now().Add(20 * time.Second))
			answer, err := io.ReadAll(slow)
			if err != nil || strings.HasPrefix(string(answer), "HTTP/1.1 200") && !strings.Contains(string(answer), errNoBody.Error()) {
				t.Errorf("%s: %q, %v", name, answer, err)
			}
		})
	}
	waiting.Wait()
	if calls := m.calls(); len(calls) != 0 {
		t.Errorf("the mounter was called %v", calls)
	}
	if status, _ := ask(t, socket, asDocker("VolumeDriver.Capabilities", "")); status != http.StatusOK {
		t.Errorf("afterwards a good call gets %d", status)
	}
}
