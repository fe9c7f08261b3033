//go:build bench

package movebench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/mountns"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/migrate/feed"
	"github.com/mobyfs/mobyfs/migrate/transfer"
)

// roleVariable, set to one of the roles, makes this program a part of the benchmark; orderVariable says what to do.
const (
	roleVariable  = "MOBYFS_MOVEBENCH"
	orderVariable = "MOBYFS_MOVEBENCH_ORDER"
)

// order is what a child is to do.
type order struct {
	PKI       string // directory of the certificate
	Address   string
	Dir       string
	Live      bool
	Container string        // that uses Dir, as Docker names it
	Next      string        // container that goes on at the destination
	MaxPause  time.Duration // rounds go on until it is predicted
	Journal   string
	Limit     int64 // bytes a second
}

// result is what a child that pulled says.
type result struct {
	Receipt mobyfs.Receipt
	Rounds  []mobyfs.Round
	Frozen  time.Duration // from the request to freeze until all was proven
	Predict time.Duration
	Started time.Duration // Docker's start of the next container
	Error   string
}

func play(role string, o order) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	switch role {
	case "hold":
		select {}
	case "serve":
		return serve(ctx, o)
	case "pull":
		return say(pull(ctx, o))
	case "follow":
		return say(follow(ctx, o))
	case "write":
		return write(o.Dir)
	}
	return fmt.Errorf("there is no role %q", role)
}

func say(r result, err error) error {
	if err != nil {
		r.Error = err.Error()
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// serve offers a directory to node b, as the agent of node a would.
func serve(ctx context.Context, o order) error {
	files := pki.FilesIn(o.PKI, "a")
	cfg, err := files.ServerTLS()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", o.Address)
	if err != nil {
		return err
	}
	s := &transfer.Server{TLS: cfg, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Offer: func(context.Context, pki.Identity, string) (transfer.Offered, error) {
			if o.Live {
				return live(o), nil
			}
			return transfer.Offered{Dir: o.Dir, Release: func() {}}, nil
		}}
	return s.Serve(ctx, l)
}

// live offers a directory that a container uses; it is frozen by Docker, as the agent does it.
func live(o order) transfer.Offered {
	return transfer.Offered{
		Dir: o.Dir, Release: func() {}, Live: true,
		Feed: func(dir string) feed.Feed {
			armed, why := feed.New(slog.New(slog.DiscardHandler)).Arm(dir, feed.Options{PIDs: func() ([]int, error) { return mountns.Suspects(dir) }})
			fmt.Fprintln(os.Stderr, "feed:", why)
			return armed
		},
		Freeze: func(ctx context.Context) (int, error) {
			if err := syncfs(o.Dir); err != nil { // so that little is left for the pause
				return 0, err
			}
			if o.Container != "" {
				if err := dockerd.Pause(ctx, o.Container); err != nil {
					return 0, err
				}
			}
			return 1, syncfs(o.Dir)
		},
		Unfreeze: func(ctx context.Context, reason string) {
			fmt.Fprintln(os.Stderr, "thawed:", reason)
			if o.Container != "" {
				_ = dockerd.Unpause(ctx, o.Container)
			}
		},
	}
}

func from(o order) mobyfs.From {
	return mobyfs.From{Migration: "m1", Node: "a", Address: o.Address, Ticket: "bench"}
}

func pull(ctx context.Context, o order) (result, error) {
	receipt, err := transfer.NewClient(pki.FilesIn(o.PKI, "b")).Pull(ctx, from(o), o.Dir, nil)
	return result{Receipt: receipt}, err
}

// follow brings the tree round by round, freezes, and starts the next container.
func follow(ctx context.Context, o order) (r result, err error) {
	var client mobyfs.Peer = transfer.NewClient(pki.FilesIn(o.PKI, "b"))
	peer, ok := client.(mobyfs.LivePeer)
	if !ok {
		return r, errors.New("this version can't follow a volume that is in use")
	}
	f, err := peer.Follow(ctx, from(o), o.Dir, mobyfs.FollowOptions{Journal: o.Journal, BytesPerSecond: o.Limit})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	options := mobyfs.MoveOptions{MaxPause: o.MaxPause}
	for {
		round, err := f.Round(ctx)
		if err != nil {
			return r, err
		}
		r.Rounds = append(r.Rounds, round)
		before := r.Predict
		if r.Predict = f.Predict(); options.Enough(round.Number, before, r.Predict) || round.Number >= options.Rounds() {
			break
		}
	}
	begun := time.Now()
	if r.Receipt, err = f.Freeze(ctx); err != nil {
		return r, err
	}
	r.Frozen = time.Since(begun)
	if o.Next != "" {
		begun = time.Now()
		err = dockerd.Start(ctx, o.Next)
		r.Started = time.Since(begun)
	}
	return r, err
}

// certify gives each host a certificate of one cluster.
func certify(t *testing.T, dir string) {
	t.Helper()
	authority, err := pki.NewAuthority(filepath.Join(dir, "authority"), "bench")
	must(t, err)
	for _, name := range []string{"a", "b"} {
		files := pki.FilesIn(filepath.Join(dir, name), name)
		must(t, os.MkdirAll(filepath.Join(dir, name), 0o700))
		csr, err := files.NewRequest()
		must(t, err)
		cert, err := authority.Sign(csr, pki.Identity{Cluster: authority.Cluster, Role: pki.RoleNode, Name: name})
		must(t, err)
		must(t, files.Install(cert, authority.CertPEM))
	}
}

// child is a command that plays a role on a host.
func (s *side) child(ctx context.Context, role string, o order) (*childCmd, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := s.cmd(ctx, self, "-test.run=^$") // without its role it would do nothing
	cmd.Env = append(os.Environ(), roleVariable+"="+role, orderVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	return &childCmd{cmd}, nil
}
