package attacks

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Whom a call is for. Whoever is not named is denied.
var (
	people     = []string{pki.RoleOperator, pki.RoleAdmin}
	readers    = append([]string{pki.RoleViewer, pki.RoleAuditor}, people...)
	auditors   = append([]string{pki.RoleAuditor}, people...)
	nodes      = []string{pki.RoleNode}
	everybody  = []string{pki.RoleNode, pki.RoleDocker, pki.RoleControl, pki.RoleViewer, pki.RoleAuditor, pki.RoleOperator, pki.RoleAdmin}
	ofCallsFor = map[*[]string]string{
		&everybody: "get-health get-ready get-bundle enroll renew",
		&readers: "get-metrics get-cluster follow-events list-nodes get-node list-operations get-operation wait-operation explain-placement " +
			"list-volumes list-removed-volumes plan-rebalance get-authority get-restore list-backups",
		&auditors: "follow-audit list-audit-segments get-audit-segment list-people",
		&nodes:    "abort accept claim commit created freeze thaw moved release removed report inventory",
		&people: "patch-node cordon-node uncordon-node drain-node evict-node forget-node cancel-operation pause-operation resume-operation retry-operation " +
			"rotate-authority evict list-tokens create-token remove-token rebalance upgrade-nodes patch-volume cancel-move change-move undo-move move-volume undelete-volume resize-volume " +
			"take-over-volume settle-volume converge make-backup",
	}
	// Calls that the rights of more than one of these groups reach.
	mixed = map[string][]string{
		"get-volume": append(readers, pki.RoleNode), "wait-volume": append(readers, pki.RoleNode), "watch": append(readers, pki.RoleNode),
		"get-backup": append(people, pki.RoleNode), "records": append(readers, pki.RoleNode), "create-volume": append(people, pki.RoleNode), "remove-volume": append(people, pki.RoleNode),
	}
	// What a call needs to be understood before it is refused.
	bodies = map[string]string{
		"abort": `{"volume":"v","migration":"m","reason":"x"}`, "accept": `{"volume":"v","migration":"m"}`, "claim": `{"volume":"v"}`,
		"commit":  `{"volume":"v","migration":"m","receipt":{"digest":"d","progress":{"files":0,"bytes":0,"total_bytes":0}}}`,
		"created": `{"volume":"v"}`, "removed": `{"volume":"v"}`, "release": `{"volume":"v","fence":1}`, "records": `{"volumes":["v"]}`,
		"report":     `{"address":"h1:1","version":"v1","capacity":{"total_bytes":1,"free_bytes":1},"volumes":0}`,
		"patch-node": `{"zone":"west"}`, "drain-node": `{"reason":"x"}`, "evict-node": `{"reason":"x"}`, "forget-node": `{}`, "rebalance": `{}`,
		"upgrade-nodes": `{"version":"v2"}`, "rotate-authority": `{}`, "evict": `{"role":"node","name":"h1"}`, "create-token": `{"role":"admin"}`,
		"explain-placement": `{}`, "create-volume": `{"name":"evil"}`, "patch-volume": `{"labels":{"a":"b"}}`, "move-volume": `{"to":"h2"}`,
		"resize-volume": `{"size_bytes":1}`, "inventory": `{"history":"x","epoch":0,"last":true,"holdings":[]}`, "converge": `{"without":[]}`, "settle-volume": `{"drop":"h2"}`,
		"take-over-volume": `{"to":"h2","reason":"x"}`, "freeze": `{"volume":"v","migration":"m"}`,
		"thaw": `{"volume":"v","migration":"m","freeze":1}`, "moved": `{"volume":"v","migration":"m","report":{"pause":1}}`,
		"change-move": `{"max_rounds":1}`, "undelete-volume": `{}`,
	}
)

// allowedTo tells whom a call is for; nil if nobody has said so.
func allowedTo(id string) []string {
	if roles, ok := mixed[id]; ok {
		return roles
	}
	for roles, ids := range ofCallsFor {
		if slices.Contains(strings.Fields(ids), id) {
			return *roles
		}
	}
	return nil
}

// Every call that the API describes, by every role that it is not for, is denied and changes nothing. A call that is added
// has to say here whom it is for.
func TestAttackEveryCallByEveryRoleThatItIsNotFor(t *testing.T) {
	text, err := api.Spec()
	ok(t, err)
	var spec struct {
		Paths map[string]map[string]struct {
			ID string `json:"operationId"`
		}
	}
	ok(t, json.Unmarshal(text, &spec))
	v := newVictim(t)
	before, tries := v.state(), 0
	transports := map[string]*http.Transport{}
	for _, role := range everybody {
		transports[role] = v.transport(role, "h2")
	}
	fill := strings.NewReplacer("{name}", "pgdata", "{node}", "h2", "{id}", "01abc", "{number}", "1")
	for path, methods := range spec.Paths {
		for method, call := range methods {
			allowed := allowedTo(call.ID)
			if allowed == nil {
				t.Errorf("nobody has said who may make the call %s (%s %s)", call.ID, method, path)
				continue
			}
			for _, role := range everybody {
				if slices.Contains(allowed, role) {
					continue
				}
				tries++
				a := attack{method: strings.ToUpper(method), path: fill.Replace(path), body: bodies[call.ID]}
				if status, code, text := v.send(transports[role], a); status != http.StatusForbidden || code != mobyfs.CodeDenied {
					t.Errorf("%s by a %s: got %d %.200s", call.ID, role, status, text)
				}
			}
		}
	}
	if after := v.state(); after != before {
		t.Errorf("something was changed:\n%s\n%s", before, after)
	}
	if t.Log(fmt.Sprint(tries, " calls were tried")); tries < 200 {
		t.Error("these are not all that there are")
	}
}
