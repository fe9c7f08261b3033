package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// present shows a text in place of a ticket to h1, as h2.
func present(t *testing.T, r *rig, ticket string) error {
	t.Helper()
	peer := pki.Identity{Cluster: "shop", Role: pki.RoleNode, Name: "h2"}
	offered, err := r.nodes["h1"].agent.Offer(context.Background(), peer, ticket)
	if err == nil {
		offered.Release()
	}
	return err
}

// forged is a ticket's text with its header and payload changed; sign nil leaves the signature.
func forged(t *testing.T, ticket string, change func(header, payload map[string]any), sign func(text string) string) string {
	t.Helper()
	parts := strings.Split(ticket, ".")
	var header, payload map[string]any
	for i, m := range []*map[string]any{&header, &payload} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(text, m)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	change(header, payload)
	for i, m := range []map[string]any{header, payload} {
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		parts[i] = base64.RawURLEncoding.EncodeToString(text)
	}
	if sign != nil {
		parts[2] = sign(parts[0] + "." + parts[1])
	}
	return strings.Join(parts, ".")
}

// A node that was given one ticket makes others of it. None opens anything, and h1 goes on using its volume.
func TestAttackForgedTickets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2 := twoNodes(t, nil)
		good := mobyfs.Ticket{Migration: "m9", Volume: "v1", From: "h1", To: "h2", Fence: r.cluster.volume("pgdata").Fence, Expires: time.Now().Add(time.Minute)}
		signed := func(by pki.Files, ticket any, life time.Duration) string {
			text, err := by.SignToken(ticket, life)
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
		control := r.cluster.signer
		ticket := signed(control, good, time.Minute)
		ca, err := os.ReadFile(control.CA)
		if err != nil {
			t.Fatal(err)
		}
		none := func(string) string { return "" }
		withTheRoot := func(text string) string { // the public key that everybody has, as if it were a secret
			sum, err := jwt.SigningMethodHS256.Sign(text, ca)
			if err != nil {
				t.Fatal(err)
			}
			return base64.RawURLEncoding.EncodeToString(sum)
		}
		same := func(_, _ map[string]any) {}
		other, err := pki.NewAuthority(t.TempDir(), "shop")
		if err != nil {
			t.Fatal(err)
		}
		stranger := pki.FilesIn(t.TempDir(), "control")
		csr, err := stranger.NewRequest()
		if err != nil {
			t.Fatal(err)
		}
		cert, err := other.Sign(csr, pki.Identity{Cluster: "shop", Role: pki.RoleControl, Name: "control"})
		if err == nil {
			err = stranger.Install(cert, other.CertPEM)
		}
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{
			"no ticket":                   "",
			"three dots":                  "..",
			"a megabyte":                  strings.Repeat("A", 1<<20),
			"without its signature":       forged(t, ticket, same, none),
			"of algorithm none":           forged(t, ticket, func(h, _ map[string]any) { h["alg"] = "none" }, none),
			"of algorithm nOnE":           forged(t, ticket, func(h, _ map[string]any) { h["alg"] = "nOnE" }, none),
			"with the root as a secret":   forged(t, ticket, func(h, _ map[string]any) { h["alg"] = "HS256" }, withTheRoot),
			"without a certificate":       forged(t, ticket, func(h, _ map[string]any) { delete(h, "x5c") }, nil),
			"with a hundred certificates": forged(t, ticket, func(h, _ map[string]any) { h["x5c"] = make([]any, 100) }, nil),
			"with another volume":         forged(t, ticket, func(_, p map[string]any) { p["mobyfs"].(map[string]any)["volume"] = "v2" }, nil),
			"with a higher fence":         forged(t, ticket, func(_, p map[string]any) { p["mobyfs"].(map[string]any)["fence"] = 99 }, nil),
			"with a later end":            forged(t, ticket, func(_, p map[string]any) { p["exp"] = time.Now().Add(time.Hour).Unix() }, nil),
			"without an end":              forged(t, ticket, func(_, p map[string]any) { delete(p, "exp") }, nil),
			"signed by a node":            signed(h2.files, good, time.Minute),
			"signed by another authority": signed(stranger, good, time.Minute),
			"signed long ago":             signed(control, good, -time.Minute),
			"of a payload that is none":   signed(control, "v1", time.Minute),
		} {
			if err := present(t, r, text); mobyfs.CodeOf(err) != mobyfs.CodeDenied {
				t.Errorf("%s: got %.200v, want denied", name, err)
			}
		}
		for _, id := range []mobyfs.VolumeID{"", ".", "..", "../v1", "v1/", "v1\x00", "V1", "\uff561", mobyfs.VolumeID(strings.Repeat("x", 1<<20)), "../../../../etc"} {
			bad := good
			bad.Volume = id
			if err := present(t, r, signed(control, bad, time.Minute)); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
				t.Errorf("control's own ticket for the volume %.20q: got %.200v, want not found", id, err)
			}
		}
		h1.mount("pgdata", "a")
		if err := present(t, r, ticket); mobyfs.CodeOf(err) != mobyfs.CodeInUse {
			t.Errorf("a good ticket for a volume in use: %v", err)
		}
	})
}

// A ticket that was good is worth nothing after the move that it was for, whether the volume is away by then or is back.
func TestAttackTicketReplayed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2 := twoNodes(t, nil)
		ticket, err := r.cluster.signer.SignToken(mobyfs.Ticket{Migration: "m9", Volume: "v1", From: "h1", To: "h2",
			Fence: r.cluster.volume("pgdata").Fence, Expires: time.Now().Add(24 * time.Hour)}, 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		h2.mount("pgdata", "a")
		h2.unmount("pgdata", "a")
		settled()
		if err := present(t, r, ticket); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			t.Errorf("the volume has moved away: got %v, want not found", err)
		}
		pass(time.Minute)
		h1.mount("pgdata", "b")
		h1.unmount("pgdata", "b")
		pass(time.Minute)
		if err := present(t, r, ticket); mobyfs.CodeOf(err) != mobyfs.CodeStaleFence {
			t.Errorf("the volume is back, under newer decisions: got %v, want stale fence", err)
		}
	})
}
