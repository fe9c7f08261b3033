package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Calls about work that takes longer than one decision.
var (
	listOperations  = call{http.MethodGet, "/v1/operations", "list-operations", "List operations by ID, a page at a time"}
	getOperation    = call{http.MethodGet, "/v1/operations/{id}", "get-operation", "Get an operation by its ID"}
	waitOperation   = call{http.MethodGet, "/v1/operations/{id}:wait", "wait-operation", "Get an operation once it has gone on, or has ended"}
	cancelOperation = call{http.MethodPost, "/v1/operations/{id}:cancel", "cancel-operation", "End an operation and undo what can be undone"}
	retryOperation  = call{http.MethodPost, "/v1/operations/{id}:retry", "retry-operation", "Try an operation again"}
	pauseOperation  = call{http.MethodPost, "/v1/operations/{id}:pause", "pause-operation", "Let an operation begin nothing more"}
	resumeOperation = call{http.MethodPost, "/v1/operations/{id}:resume", "resume-operation", "Let an operation go on"}
	drainNode       = call{http.MethodPost, "/v1/nodes/{node}:drain", "drain-node", "Begin to move all volumes away from a node"}
	evictNode       = call{http.MethodPost, "/v1/nodes/{node}:evict", "evict-node", "Shut a node out, and give others what can be taken from it"}
	resizeVolume    = call{http.MethodPost, "/v1/volumes/{name}:resize", "resize-volume", "Promise a volume another size as soon as there is room"}
	upgradeNodes    = call{http.MethodPost, "/v1/upgrades", "upgrade-nodes", "Begin to say which node may be upgraded next"}
	planRebalance   = call{http.MethodGet, "/v1/rebalance", "plan-rebalance", "Tell which moves would make the nodes about equally full"}
	beginRebalance  = call{http.MethodPost, "/v1/rebalance", "rebalance", "Begin to make the nodes about equally full"}
	forgetNode      = call{http.MethodPost, "/v1/nodes/{node}:forget", "forget-node", "Delete the record of a node that was drained or evicted"}
)

// OperationQuery says which operations a list shall tell of. The zero value asks for the first page of all.
type OperationQuery struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"500" doc:"operations in a page"`
	Cursor string `query:"cursor" maxLength:"64" doc:"the ID of the last operation of the page before"`
	Kind   string `query:"kind" enum:"create,move,resize,drain,evict,rebalance,upgrade" doc:"what they do"`
	Phase  string `query:"phase" enum:"pending,running,waiting,done,failed,cancelled,parked" doc:"how they stand"`
	Volume string `query:"volume" maxLength:"128" doc:"the name of the volume that they are about"`
	Node   string `query:"node" maxLength:"63" doc:"a node that they are about"`
	Parent string `query:"parent" maxLength:"64" doc:"the operation of which they are parts"`
	Active bool   `query:"active" doc:"only those that have not ended"`
}

// OperationPage is a part of a list.
type OperationPage struct {
	Operations []mobyfs.Operation
	Next       string // cursor of the next page; empty if this is the last
}

type operationList struct {
	Link string `header:"Link" doc:"the next page, if there is one (RFC 8288)"`
	Body []mobyfs.Operation
}

type operationInput struct {
	ID mobyfs.OperationID `path:"id"`
}

// because is the body of a request that an operator gives a reason for.
type because struct {
	Reason string `json:"reason,omitempty" doc:"for people; it becomes part of the event"`
}

// DrainRequest says how a node is to be drained.
type DrainRequest struct {
	Reason  string             `json:"reason,omitempty" doc:"for people; it becomes part of the event"`
	Live    bool               `json:"live,omitempty" doc:"move volumes too while containers use them"`
	Options mobyfs.MoveOptions `json:"options,omitzero" doc:"of each live move; durations are in nanoseconds"`
}

type onNode[T any] struct {
	Node string `path:"node"`
	Body T
}

type forgetRequest struct {
	DataLost bool `json:"data_lost,omitempty" doc:"gives up the volumes whose bytes are on the node alone"`
}

type resizeRequest struct {
	SizeBytes int64 `json:"size_bytes" doc:"that the volume may count on; 0 promises nothing"`
}

type upgradeRequest struct {
	Version string `json:"version" doc:"that the nodes shall have, as mobyfs version prints it"`
}

type rebalanceRequest struct {
	MinGain float64 `json:"min_gain,omitempty" minimum:"0" maximum:"1" doc:"how much emptier, of 1, a volume's new node must be than its old one; control's default if 0"`
}

func (s *Server) serveOperations() {
	handle(s, planRebalance, func(ctx context.Context, who pki.Identity, in *struct {
		MinGain float64 `query:"min_gain" minimum:"0" maximum:"1" doc:"how much emptier, of 1, a volume's new node must be than its old one; control's default if 0"`
	}) (*reply[[]mobyfs.PlannedMove], error) {
		return replied(s.service.PlanRebalance(ctx, who, in.MinGain))
	})
	handle(s, beginRebalance, func(ctx context.Context, who pki.Identity, in *reply[rebalanceRequest]) (*reply[mobyfs.Operation], error) {
		return replied(s.service.Rebalance(ctx, who, in.Body.MinGain))
	})
	handle(s, resizeVolume, func(ctx context.Context, who pki.Identity, in *struct {
		Name string `path:"name"`
		Body resizeRequest
	}) (*reply[mobyfs.Operation], error) {
		return replied(s.service.ResizeVolume(ctx, who, in.Name, in.Body.SizeBytes))
	})
	handle(s, upgradeNodes, func(ctx context.Context, who pki.Identity, in *reply[upgradeRequest]) (*reply[mobyfs.Operation], error) {
		return replied(s.service.UpgradeNodes(ctx, who, in.Body.Version))
	})
	handle(s, listOperations, func(ctx context.Context, who pki.Identity, in *OperationQuery) (*operationList, error) {
		page, err := s.service.Operations(ctx, who, *in)
		return &operationList{in.next(page.Next), page.Operations}, err
	})
	handle(s, waitOperation, func(ctx context.Context, who pki.Identity, in *struct {
		ID         mobyfs.OperationID `path:"id"`
		Generation int64              `query:"generation" minimum:"0" doc:"that the caller knows"`
		Seconds    int                `query:"timeout" minimum:"0" maximum:"10" default:"10" doc:"seconds after which the operation is answered as it is"`
	}) (*reply[mobyfs.Operation], error) {
		return replied(s.service.WaitOperation(ctx, who, in.ID, in.Generation, time.Duration(in.Seconds)*time.Second))
	})
	for c, do := range map[call]func(context.Context, pki.Identity, mobyfs.OperationID) (mobyfs.Operation, error){
		getOperation: func(ctx context.Context, who pki.Identity, id mobyfs.OperationID) (mobyfs.Operation, error) {
			return s.service.Operation(ctx, who, id)
		},
		cancelOperation: func(ctx context.Context, who pki.Identity, id mobyfs.OperationID) (mobyfs.Operation, error) {
			return s.service.CancelOperation(ctx, who, id)
		},
		retryOperation: func(ctx context.Context, who pki.Identity, id mobyfs.OperationID) (mobyfs.Operation, error) {
			return s.service.RetryOperation(ctx, who, id)
		},
		pauseOperation: func(ctx context.Context, who pki.Identity, id mobyfs.OperationID) (mobyfs.Operation, error) {
			return s.service.PauseOperation(ctx, who, id, true)
		},
		resumeOperation: func(ctx context.Context, who pki.Identity, id mobyfs.OperationID) (mobyfs.Operation, error) {
			return s.service.PauseOperation(ctx, who, id, false)
		},
	} {
		handle(s, c, func(ctx context.Context, who pki.Identity, in *operationInput) (*reply[mobyfs.Operation], error) {
			return replied(do(ctx, who, in.ID))
		})
	}
	handle(s, drainNode, func(ctx context.Context, who pki.Identity, in *onNode[DrainRequest]) (*reply[mobyfs.Operation], error) {
		return replied(s.service.DrainNode(ctx, who, in.Node, in.Body))
	})
	handle(s, evictNode, func(ctx context.Context, who pki.Identity, in *onNode[because]) (*reply[mobyfs.Operation], error) {
		return replied(s.service.EvictNode(ctx, who, in.Node, in.Body.Reason))
	})
	handle(s, forgetNode, func(ctx context.Context, who pki.Identity, in *onNode[forgetRequest]) (*none, error) {
		return nil, s.service.ForgetNode(ctx, who, in.Node, in.Body.DataLost)
	})
}

func replied[T any](answer T, err error) (*reply[T], error) { return &reply[T]{answer}, err }

// next is the page that follows, in the form of RFC 8288.
func (q OperationQuery) next(cursor string) string {
	if cursor == "" {
		return ""
	}
	q.Cursor = cursor
	return "<" + listOperations.path + "?" + q.values().Encode() + `>; rel="next"`
}

func (q OperationQuery) values() url.Values {
	v := url.Values{}
	for name, text := range map[string]string{
		"cursor": q.Cursor, "kind": q.Kind, "phase": q.Phase, "volume": q.Volume, "node": q.Node, "parent": q.Parent,
	} {
		if text != "" {
			v.Set(name, text)
		}
	}
	if q.Limit != 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Active {
		v.Set("active", "true")
	}
	return v
}

// Operations lists a part of the operations, sorted by ID.
func (c *Client) Operations(ctx context.Context, q OperationQuery) (page OperationPage, err error) {
	what := listOperations
	if query := q.values().Encode(); query != "" {
		what.path += "?" + query
	}
	header, err := c.askFor(ctx, what, "", nil, &page.Operations)
	if err == nil {
		page.Next, err = nextCursor(header.Get("Link"))
	}
	return page, err
}

// Operation tells of one operation. CodeNotFound if there is none, or none any more.
func (c *Client) Operation(ctx context.Context, id mobyfs.OperationID) (o mobyfs.Operation, err error) {
	err = c.ask(ctx, getOperation, string(id), nil, &o)
	return o, err
}

// WaitOperation returns an operation once its generation is newer than one or it has ended, or as it is when patience, of
// at most MaxWait, ends.
func (c *Client) WaitOperation(ctx context.Context, id mobyfs.OperationID, generation int64, patience time.Duration) (o mobyfs.Operation, err error) {
	what := waitOperation
	what.path += "?generation=" + strconv.FormatInt(generation, 10) + "&timeout=" + strconv.Itoa(int(min(patience, MaxWait)/time.Second))
	err = c.ask(ctx, what, string(id), nil, &o)
	return o, err
}

// CancelOperation ends an operation and undoes what can be undone.
func (c *Client) CancelOperation(ctx context.Context, id mobyfs.OperationID) (o mobyfs.Operation, err error) {
	err = c.ask(ctx, cancelOperation, string(id), nil, &o)
	return o, err
}

// RetryOperation begins an operation anew that failed or was cancelled, and makes one that waits try at once.
func (c *Client) RetryOperation(ctx context.Context, id mobyfs.OperationID) (o mobyfs.Operation, err error) {
	err = c.ask(ctx, retryOperation, string(id), nil, &o)
	return o, err
}

// PauseOperation says whether an operation may begin anything more.
func (c *Client) PauseOperation(ctx context.Context, id mobyfs.OperationID, paused bool) (o mobyfs.Operation, err error) {
	what := resumeOperation
	if paused {
		what = pauseOperation
	}
	err = c.ask(ctx, what, string(id), nil, &o)
	return o, err
}

// DrainNode begins to move all volumes away from a node.
func (c *Client) DrainNode(ctx context.Context, node, reason string) (o mobyfs.Operation, err error) {
	return c.Drain(ctx, node, DrainRequest{Reason: reason})
}

// Drain begins to move all volumes away from a node as it is asked for.
func (c *Client) Drain(ctx context.Context, node string, how DrainRequest) (o mobyfs.Operation, err error) {
	err = c.ask(ctx, drainNode, node, how, &o)
	return o, err
}

// EvictNode shuts a node out for good, and begins to give others what can be taken from it.
func (c *Client) EvictNode(ctx context.Context, node, reason string) (o mobyfs.Operation, err error) {
	err = c.ask(ctx, evictNode, node, because{reason}, &o)
	return o, err
}

// ForgetNode deletes the record of a node that was drained or evicted, and with dataLost those of the volumes whose bytes
// are there alone.
func (c *Client) ForgetNode(ctx context.Context, node string, dataLost bool) error {
	return c.ask(ctx, forgetNode, node, forgetRequest{dataLost}, nil)
}

// ResizeVolume promises a volume another size, at once or as soon as its node has the room.
func (c *Client) ResizeVolume(ctx context.Context, name string, bytes int64) (o mobyfs.Operation, err error) {
	err = c.ask(ctx, resizeVolume, name, resizeRequest{bytes}, &o)
	return o, err
}

// UpgradeNodes begins to say which node may be upgraded to a version next.
func (c *Client) UpgradeNodes(ctx context.Context, version string) (o mobyfs.Operation, err error) {
	err = c.ask(ctx, upgradeNodes, "", upgradeRequest{version}, &o)
	return o, err
}

// PlanRebalance tells which moves would make the nodes about equally full.
func (c *Client) PlanRebalance(ctx context.Context, minGain float64) (plan []mobyfs.PlannedMove, err error) {
	what := planRebalance
	what.path += "?min_gain=" + strconv.FormatFloat(minGain, 'f', -1, 64)
	err = c.ask(ctx, what, "", nil, &plan)
	return plan, err
}

// Rebalance begins to make these moves.
func (c *Client) Rebalance(ctx context.Context, minGain float64) (o mobyfs.Operation, err error) {
	err = c.ask(ctx, beginRebalance, "", rebalanceRequest{minGain}, &o)
	return o, err
}
