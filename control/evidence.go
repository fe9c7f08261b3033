package control

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// A backup knows nothing of who was evicted after it was made. Agents do: they keep the list that control told them.
// So control signs each eviction, agents tell a restored control those that they have heard of with what they hold, and
// the newest of all holds. What is not signed counts for nothing: a node must not be able to shut others out.

// forEvictions is the purpose for which evictions are signed.
const forEvictions = "eviction"

// sign makes an eviction one that control believes after a restore, too. Where it can't sign it holds all the same,
// until then.
func (c *Control) sign(e *mobyfs.Eviction) {
	e.Proof = nil
	issuer, err := c.keeper.issuer(pki.IssuerNode)
	if err == nil {
		e.Proof, err = issuer.Vouch(forEvictions, evidence(*e))
	}
	if err != nil {
		c.log.Warn("an eviction could not be signed; a control that is restored from an older backup will not know it", "who", e.Who(), "err", err)
	}
}

// evidence is what of an eviction is signed.
func evidence(e mobyfs.Eviction) []byte {
	e.Proof, e.Until = nil, e.Until.UTC()
	raw, _ := json.Marshal(e) // of texts and a time it never fails
	return raw
}

// proven reports whether control signed an eviction, below any root that it knows.
func (c *Control) proven(e mobyfs.Eviction) (yes bool) {
	if checkMember(e.Role, e.Name) != nil || len(e.Proof) == 0 {
		return false
	}
	c.store.View(func(v store.View) {
		for _, i := range store.Issuers.All(v) {
			yes = yes || i.Kind == string(pki.IssuerNode) && pki.VouchedBy([]byte(i.Cert), c.cfg.Cluster, forEvictions, evidence(e), e.Proof)
		}
	})
	return yes
}

// hearOfEvictions takes over what a node has heard of evictions and the store does not know. It returns whom that shuts
// out; done again it changes nothing. Those that can't be proven are told, for an operator may know better.
func (c *Control) hearOfEvictions(tx *store.Tx, node string, heard []mobyfs.Eviction) (out []mobyfs.Eviction, err error) {
	var doubtful []string
	for _, e := range heard {
		old, err := store.Evictions.Get(tx, e.Who())
		if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			return nil, err
		}
		if err == nil && !e.Until.After(old.Until) {
			continue
		}
		if !c.proven(e) {
			doubtful = append(doubtful, e.Who())
			continue
		}
		if err := c.shutOutAgain(tx, node, e); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	if len(doubtful) == 0 {
		return out, nil
	}
	slices.Sort(doubtful)
	doubtful = slices.Compact(doubtful)
	return out, tx.Record(mobyfs.Event{Node: node, Text: clean(fmt.Sprintf("restore: %s says that %s were evicted, and can't prove it; if they were, evict them again",
		node, listed(doubtful)), maxReason)})
}

// shutOutAgain writes down an eviction that was decided after the backup was made.
func (c *Control) shutOutAgain(tx *store.Tx, node string, e mobyfs.Eviction) error {
	if err := store.Evictions.Put(tx, e.Who(), e); err != nil {
		return err
	}
	if isPerson(e.Role) {
		if err := store.People.Delete(tx, e.Who()); err != nil {
			return err
		}
	}
	event := mobyfs.Event{Text: fmt.Sprintf("restore: evicted %s, as control had decided after the backup; %s knew it", e.Who(), node)}
	if e.Role == pki.RoleNode {
		event.Node = e.Name
		n, err := tx.Node(e.Name)
		if err == nil && covers(e, n) {
			err = c.markEvicted(tx, e.Name)
		}
		if err := ignoreGone(err); err != nil {
			return err
		}
	}
	return tx.Record(event)
}

// certain is nil unless a restored control may not know yet that somebody was evicted who asks to change who belongs to
// the cluster, what is known of nodes, or whom is waited for.
func (c *Control) certain(who pki.Identity, do action) error {
	r := c.store.Restored()
	if r == nil || !isPerson(who.Role) {
		return nil
	}
	switch do {
	case doAdmit, doOperate:
	case doBackup:
		if c.heardOfEvictions() {
			return nil
		}
	default:
		return nil
	}
	return mobyfs.Errorf(mobyfs.CodeUnavailable, "control was restored from a backup of %s and does not know yet who was evicted since", r.MadeAt.UTC().Format(time.RFC3339)).
		WithHint("nodes tell it: start mobyfs.service where it does not run, or mobyctl bootstrap; mobyctl control status says which are awaited")
}

// heardOfEvictions reports whether a node that is not evicted has told what it knows since the restore.
func (c *Control) heardOfEvictions() (heard bool) {
	history := c.store.History()
	c.store.View(func(v store.View) {
		for name, i := range store.Inventories.All(v) {
			n, ok := v.Node(name)
			heard = heard || i.History == history && ok && n.Use() != mobyfs.NodeEvicted
		}
	})
	return heard
}

// namesOf are those whom evictions shut out.
func namesOf(all []mobyfs.Eviction) string {
	var names []string
	for _, e := range all {
		names = append(names, e.Who())
	}
	return strings.Join(names, ", ")
}
