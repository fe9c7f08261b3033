package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"github.com/mobyfs/mobyfs"
)

// Occupant is a container that uses a volume.
type Occupant struct {
	Container
	PID        int // of its first process; 0 if none runs
	Paused     bool
	Mounts     int    // of the volume in it
	AutoRemove bool   // it is removed once it ends
	Restart    string // its restart policy, "" for none
}

// Carrier is dockerd, as the agent has it stop the containers of a volume that moves, and make them anew elsewhere. Every
// method may be repeated with the same effect. A container that is gone can't be paused, stopped or packed; for what lets
// one go on, or ends it, it is fine.
type Carrier interface {
	// Occupants lists the containers that run, paused or restarting ones among them, and have the volume of that name
	// mounted, sorted by name.
	Occupants(ctx context.Context, volume string) ([]Occupant, error)
	// Pause stops all processes of a container in the middle of what they do. It is an error if it is paused already:
	// who did that may not want it to go on.
	Pause(ctx context.Context, id string) error
	// Unpause lets a paused container go on. One that is not paused is fine.
	Unpause(ctx context.Context, id string) error
	// Stop ends a container with its own signal, in its own time.
	Stop(ctx context.Context, id string) error
	// Kill ends a container, without letting it go on if it is paused and nothing but its first process is left of it.
	// dockerd does not start it again, whatever its restart policy was; it says which that was, "" for none.
	Kill(ctx context.Context, id string) (policy string, err error)
	// Remove removes a container that does not run. Its anonymous volumes stay.
	Remove(ctx context.Context, id string) error

	// CPU tells what a container has used of the processors, and how much of them it may.
	CPU(ctx context.Context, id string) (CPU, error)
	// LimitCPU says how much of the processors a container may use from now on, until somebody says otherwise. That it may
	// use all may be told by CPU in another way afterwards.
	LimitCPU(ctx context.Context, id string, l CPULimits) error

	// Pack tells how a container was made, so that Make can make it anew at another dockerd.
	Pack(ctx context.Context, id, volume string) (Packed, error)
	// Check is an error if the container could not be made here: then nothing was done. It pulls the image if need be.
	Check(ctx context.Context, p Packed) error
	// Make creates the container, without starting it and without mounting its volumes. One that was made for the same
	// migration is found again.
	Make(ctx context.Context, p Packed, m mobyfs.MigrationID) (Container, error)
	// Made lists the containers that Make created and that were never started.
	Made(ctx context.Context) ([]Made, error)
}

// CPU is the processor time of a container.
type CPU struct {
	Used   time.Duration
	Limits CPULimits
}

// CPULimits are how many processors a container may use: NanoCPUs, in 1/1,000,000,000, or Quota in each Period, both in
// microseconds. What is not positive is no limit.
type CPULimits struct {
	NanoCPUs int64 `json:"nano_cpus,omitempty"`
	Period   int64 `json:"period,omitempty"`
	Quota    int64 `json:"quota,omitempty"`
}

// cpuPeriod is the kernel's own.
const cpuPeriod = 100_000

// atMost bounds the limits by a number of processors. They are said in the same way as before, which is the only one that dockerd
// takes then.
func (l CPULimits) atMost(processors float64) CPULimits {
	if l.NanoCPUs > 0 {
		return CPULimits{NanoCPUs: min(l.NanoCPUs, int64(processors*1e9))}
	}
	period := l.period()
	quota := int64(processors * float64(period))
	if l.Quota > 0 {
		quota = min(quota, l.Quota)
	}
	return CPULimits{Period: period, Quota: max(quota, leastQuota)}
}

// period is that of the quota, also if none is set.
func (l CPULimits) period() int64 { return cmp.Or(max(0, l.Period), cpuPeriod) }

// leastQuota is the least that the kernel takes, in microseconds.
const leastQuota = 1000

// Made is a container that was made for a migration.
type Made struct {
	Container
	Migration mobyfs.MigrationID
	Volume    string // its name
}

// Packed is a container as the luggage of a migration.
type Packed struct {
	Name    string          `json:"name"`
	ID      string          `json:"id"` // at the source
	Volume  string          `json:"volume"`
	Image   Image           `json:"image"`
	Body    json.RawMessage `json:"body"` // of dockerd's call to create it
	Runner  string          `json:"runner,omitempty"`
	Others  []string        `json:"others,omitempty"`   // other volumes of ours that it has mounted
	Binds   []string        `json:"binds,omitempty"`    // paths of the host that it has mounted
	Network []string        `json:"networks,omitempty"` // names of the networks that it is in
	Cannot  []string        `json:"cannot,omitempty"`   // why it can't be made anew elsewhere
}

// Image names an image in all ways that two hosts may know it by.
type Image struct {
	Name    string   `json:"name"`
	ID      string   `json:"id"`
	Digests []string `json:"digests,omitempty"`
}
