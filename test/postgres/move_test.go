package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mobyfs/mobyfs/test/fleet"
)

const (
	moves    = 10
	rows     = 20 // that must be acknowledged after each move
	programs = "/usr/local/lib/postgresql/"
)

// TestPostgreSQLLosesNothingInTenMoves moves the volume of a database under pgbench between two hosts.
func TestPostgreSQLLosesNothingInTenMoves(t *testing.T) {
	the.Bootstrap(t)
	makeImage(t)
	the.Ctl(t, "volume", "create", "ledger", "--node", "h1")
	the.On(t, "h1", "docker", "run", "-d", "--name", "pg", "--stop-signal", "INT", "-p", "5432:5432", "-v", "ledger:/data", "--volume-driver=mobyfs", "postgres")
	l := &ledger{url: fmt.Sprintf("postgres://postgres@%s:5432,%s:5432/postgres", the.Hosts["h1"], the.Hosts["h2"])}
	c := connect(t, l.url)
	exec1(t, c, "CREATE TABLE ledger (n bigint PRIMARY KEY, at timestamptz NOT NULL)")
	exec1(t, c, "CREATE EXTENSION amcheck")
	hosts := "host=" + the.Hosts["h1"] + "," + the.Hosts["h2"] + " user=postgres dbname=postgres connect_timeout=2"
	the.Sh(t, "h1", programs+`pgbench -q -i -s 5 "`+hosts+`"`)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	load.Go(func() { l.write(ctx) })
	load.Go(func() { bench(ctx, hosts) })
	more(t, l)
	for i := range moves {
		to := []string{"h2", "h1"}[i%2]
		l.gap()
		begun := time.Now()
		the.Ctl(t, "volume", "move", "ledger", "--to", to, "--live", "--with-containers", "--on-busy", "freeze")
		took := time.Since(begun)
		more(t, l)
		v := the.Volume(t, "ledger")
		if v.Node != to || v.LastMove == nil {
			t.Fatalf("after move %d it is on %s: %+v", i+1, v.Node, v.LastMove)
		}
		t.Logf("move %d, to %s: %.1f s, paused %d ms as the hosts saw it, longest gap of the client %d ms; %d rounds, %d MB", i+1, to,
			took.Seconds(), v.LastMove.Pause.Milliseconds(), l.gap().Milliseconds(), v.LastMove.Progress.Round, v.LastMove.Progress.Bytes>>20)
		if from := []string{"h1", "h2"}[i%2]; the.On(t, from, "docker", "ps", "-aq", "--filter", "name=pg") != "" {
			t.Errorf("after move %d there is a container on %s still", i+1, from)
		}
	}
	stop()
	load.Wait()
	check(t, l, connect(t, l.url))

	node := the.Volume(t, "ledger").Node
	the.Sh(t, "h1", programs+"pg_amcheck -h "+the.Hosts[node]+" -U postgres --all --heapallindexed --rootdescend")
	the.On(t, node, "docker", "stop", "-t", "60", "pg")
	said := the.On(t, node, "docker", "run", "--rm", "-v", "ledger:/data", "--volume-driver=mobyfs", "postgres",
		"setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", programs+"pg_checksums", "--check", "-D", "/data/db")
	fleet.Has(t, said, "Bad checksums:  0")
	t.Logf("%d acknowledged rows in %d moves, none lost; pg_amcheck found nothing; %s", l.count(), moves, strings.Join(strings.Fields(said), " "))
	the.On(t, node, "docker", "rm", "pg")
}

// makeImage makes PostgreSQL's image on one host and brings it to the other.
func makeImage(t *testing.T) {
	t.Helper()
	script, err := os.ReadFile("testdata/image.sh")
	if err != nil {
		t.Fatal(err)
	}
	the.Sh(t, "h1", string(script))
	copying := fmt.Sprintf("docker exec %s docker save postgres | docker exec -i %s docker load", the.Container("h1"), the.Container("h2"))
	if r := fleet.RunCommand(t, exec.Command("bash", "-o", "pipefail", "-c", copying)); r.Code != 0 {
		t.Fatal(r)
	}
}

// bench keeps pgbench running: it ends when it loses its server.
func bench(ctx context.Context, hosts string) {
	for ctx.Err() == nil {
		cmd := the.CmdOn("h1", "timeout", "600", programs+"pgbench", "-n", "-c", "2", "-R", "100", "-T", "600", hosts)
		if cmd.Start() != nil {
			return
		}
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		select {
		case <-ended:
			time.Sleep(100 * time.Millisecond)
		case <-ctx.Done():
			// The end of docker exec is not that of what it began.
			_ = the.CmdOn("h1", "pkill", "-x", "pgbench").Run()
			<-ended
		}
	}
}

// more waits until the ledger grows again.
func more(t *testing.T, l *ledger) {
	t.Helper()
	from := l.count()
	fleet.Eventually(t, time.Minute, func() string {
		if n := l.count() - from; n < rows {
			l.mu.Lock()
			defer l.mu.Unlock()
			return fmt.Sprintf("%d rows were acknowledged, want %d; the last error: %v", n, rows, l.why)
		}
		return ""
	})
}

func connect(t *testing.T, url string) (c *pgx.Conn) {
	t.Helper()
	fleet.Eventually(t, time.Minute, func() string {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var err error
		if c, err = pgx.Connect(ctx, url); err != nil {
			return err.Error()
		}
		return ""
	})
	t.Cleanup(func() { _ = c.Close(context.WithoutCancel(t.Context())) })
	return c
}

func exec1(t *testing.T, c *pgx.Conn, statement string) {
	t.Helper()
	if _, err := c.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// check compares the database with the ledger, and pgbench's tables with each other: each of its transactions adds the
// same to an account, a teller and a branch, and writes down what.
func check(t *testing.T, l *ledger, c *pgx.Conn) {
	t.Helper()
	found, err := c.Query(t.Context(), "SELECT n FROM ledger")
	has, err2 := pgx.CollectRows(found, pgx.RowTo[int64])
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	if lost, foreign := l.compare(has); len(lost)+len(foreign) > 0 {
		t.Errorf("lost of %d acknowledged: %v; never asked for: %v", l.count(), lost, foreign)
	}
	var sums [4]int64
	var n int64
	err = c.QueryRow(t.Context(), `SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
		(SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history), (SELECT count(*) FROM pgbench_history)`).
		Scan(&sums[0], &sums[1], &sums[2], &sums[3], &n)
	if err != nil {
		t.Fatal(err)
	}
	if sums[1] != sums[0] || sums[2] != sums[0] || sums[3] != sums[0] || n == 0 {
		t.Errorf("after %d transactions of pgbench the sums of accounts, tellers, branches and history are %v", n, sums)
	}
}
