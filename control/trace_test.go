package control

import (
	"testing"

	"github.com/mobyfs/mobyfs"
)

const ofSomebody = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// What is asked for in a trace is done in it, whatever carries it on: the record of the migration says which one it is.
func TestMigrationsOfOneRequestAreInItsTrace(t *testing.T) {
	f := newFleet(t, true)
	f.node("h1")
	f.node("h2")
	f.ready("logs", "h1")
	f.ready("data", "h1")
	ana := f.asks("operator", "ana")
	if resp, body := ana.do("POST", "/v1/volumes/logs:move", `{"to":"h2"}`, "Traceparent", ofSomebody); resp.StatusCode != 200 {
		t.Fatalf("%s %s", resp.Status, body)
	}
	if resp, body := ana.do("POST", "/v1/nodes/h1:drain", `{}`, "Traceparent", ofSomebody); resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s", resp.Status, body)
	}
	f.control.carry(t.Context())
	f.control.carry(t.Context())
	for _, name := range []string{"logs", "data"} {
		if m := f.record(name).Migration; m == nil || m.Traceparent != ofSomebody {
			t.Errorf("%s: the migration is %+v", name, m)
		}
	}
	f.restart()
	if m := f.record("data").Migration; m == nil || m.Traceparent != ofSomebody {
		t.Errorf("after a restart: %+v", m)
	}
}

func TestTraceThatCanNotBeReadIsNotKept(t *testing.T) {
	f := newFleet(t, true)
	f.node("h1")
	f.node("h2")
	f.ready("logs", "h1")
	resp, body := f.asks("operator", "ana").do("POST", "/v1/volumes/logs:move", `{"to":"h2"}`, "Traceparent", `00-<script>-01`)
	if resp.StatusCode != 200 {
		t.Fatalf("%s %s", resp.Status, body)
	}
	if m := f.record("logs").Migration; m == nil || m.Traceparent != "" {
		t.Errorf("the migration is %+v", m)
	}
	if _, err := f.caller("node", "h2").Accept(t.Context(), f.record("logs").ID, f.record("logs").Migration.ID); mobyfs.CodeOf(err) != "" {
		t.Error(err)
	}
}
