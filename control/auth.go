package control

import (
	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// action is something a caller may or may not do.
type action string

const (
	doCreate   action = "create volumes"
	doGet      action = "look at a volume"
	doRemove   action = "remove volumes"
	doWatch    action = "watch the cluster"
	doList     action = "list volumes and nodes"
	doMove     action = "move volumes"
	doTakeOver action = "take volumes over"
	doCreated  action = "make volumes ready"
	doRemoved  action = "delete the records of volumes"
	doClaim    action = "claim volumes"
	doRelease  action = "release volumes"
	doAccept   action = "accept migrations"
	doCommit   action = "commit migrations"
	doAbort    action = "abort migrations"
	doFreeze   action = "freeze volumes"
	doThaw     action = "thaw volumes"
	doReport   action = "report for a node"
	doMeasure  action = "read metrics"
	doAdmit    action = "let others in or shut them out"
	doEvents   action = "read events"
	doPatch    action = "change volumes"
	doAudit    action = "read who did what"
	doRepeat   action = "repeat requests"
	doOperate  action = "change operations and nodes"
	doBackup   action = "make backups and end the time after a restore"
	doFetch    action = "fetch backups"
	doUndelete action = "bring removed volumes back"
	doTell     action = "tell what a node holds"
)

// may is the whole of who may do what; what is not written here is denied. Nodes may do the rest only as themselves and
// with what is theirs: the rules of each decision compare the node in the record with the one that asks.
func may(role string, do action) bool {
	switch do {
	case doGet, doWatch:
		return role == pki.RoleNode || reads(role)
	case doList, doMeasure, doEvents:
		return reads(role)
	case doAudit:
		return role == pki.RoleAuditor || operates(role)
	case doCreate, doRemove, doRepeat, doFetch:
		return role == pki.RoleNode || operates(role)
	case doMove, doTakeOver, doPatch, doAdmit, doOperate, doBackup, doUndelete:
		return operates(role)
	case doCreated, doRemoved, doClaim, doRelease, doAccept, doCommit, doAbort, doFreeze, doThaw, doReport, doTell:
		return role == pki.RoleNode
	default:
		return false
	}
}

// operates reports whether a role changes what the cluster does. Bootstrap's own certificate is an operator's.
func operates(role string) bool { return role == pki.RoleOperator || role == pki.RoleAdmin }

// reads reports whether a role sees the whole cluster.
func reads(role string) bool { return pki.Reads(role) }

// allow is nil if who may do it. What is not allowed is denied.
func (c *Control) allow(who pki.Identity, do action) error {
	if who.Cluster != c.cfg.Cluster {
		return mobyfs.Errorf(mobyfs.CodeDenied, "%s belongs to cluster %q, this is %q", who, who.Cluster, c.cfg.Cluster).
			WithHint("use the address or the certificate of the right cluster")
	}
	if !may(who.Role, do) {
		c.metrics.denied.WithLabelValues(string(do)).Inc()
		return mobyfs.Errorf(mobyfs.CodeDenied, "%s may not %s", who, do).
			WithHint("only a certificate of another role allows this")
	}
	if who.Role == pki.RoleNode {
		if err := mobyfs.CheckNodeName(who.Name); err != nil {
			return mobyfs.Errorf(mobyfs.CodeDenied, "%s may not %s: %w", who, do, err).
				WithHint("the node needs a certificate with another name")
		}
	}
	if err := c.certain(who, do); err != nil {
		return err
	}
	return c.agreed(who, do)
}
