package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// volumeRecords is where the store has the records of volumes.
const volumeRecords = "/m/vol/"

// newerMember is the name of what a newer version writes into records.
const newerMember = "of_a_newer_version"

// newer writes into the record of a volume what this version does not know, as a newer one does that runs beside it while
// the cluster is upgraded. Whatever is decided about the volume from then on has to keep that.
func newer(ctx context.Context, l *lane) (func(), error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client, err := l.c.etcd(ctx, l.control())
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Close() }()
	all, err := client.Get(ctx, volumeRecords, clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	if len(all.Kvs) == 0 {
		return nil, errors.New("there are no volumes")
	}
	kv := all.Kvs[l.rng.IntN(len(all.Kvs))]
	mark := fmt.Sprint(l.rng.Uint32())
	record, err := marked(kv.Value, mark)
	if err != nil {
		return nil, err
	}
	done, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(string(kv.Key)), "=", kv.ModRevision)).
		Then(clientv3.OpPut(string(kv.Key), record)).Commit()
	switch {
	case err != nil:
		l.n.mark(string(kv.Key), "") // it may have been written, or may be yet
		return nil, err
	case !done.Succeeded:
		return nil, errors.New("the record has changed meanwhile")
	}
	l.n.mark(string(kv.Key), mark)
	return nil, nil
}

// marked is a record with a mark in it and in its spec.
func marked(record []byte, mark string) (string, error) {
	var all, spec map[string]json.RawMessage
	if err := json.Unmarshal(record, &all); err != nil {
		return "", err
	}
	if err := json.Unmarshal(all["spec"], &spec); err != nil {
		return "", fmt.Errorf("read the spec in %s: %w", record, err)
	}
	var err error
	spec[newerMember] = json.RawMessage(mark)
	all[newerMember] = json.RawMessage(mark)
	if all["spec"], err = json.Marshal(spec); err != nil {
		return "", err
	}
	text, err := json.Marshal(all)
	return string(text), err
}

// mark notes what was written into a record; "" if that is not known.
func (n *nemesis) mark(key, mark string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.marks[key] = mark
}

// forgotten compares the records that there still are with what a newer version has written into them, and tells of each
// in which that is not any more.
func (n *nemesis) forgotten(ctx context.Context) ([]string, error) {
	client, err := n.c.etcd(ctx, n.c.controls[0])
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Close() }()
	var wrong []string
	for key, mark := range n.marks {
		now, err := client.Get(ctx, key)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", key, err)
		}
		if mark == "" || len(now.Kvs) == 0 {
			continue
		}
		if got := string(now.Kvs[0].Value); strings.Count(got, fmt.Sprintf("%q:%s", newerMember, mark)) != 2 {
			wrong = append(wrong, fmt.Sprintf("lost: what a newer version wrote into %s (%s): %s", key, mark, got))
		}
	}
	return wrong, nil
}
