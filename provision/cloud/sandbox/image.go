package sandbox

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mobyfs/mobyfs"
)

// imageName is the repository of the images that are made here; the tag is <distro>-<hash of the recipe>.
const imageName = "mobyfs-sandbox"

//go:embed finish.sh
var finishScript string

// recipe is everything an image depends on, except the mirror: that changes where packages come from, not which.
type recipe struct {
	distro   string // Debian's name of the suite
	packages []string
	finish   string // script that runs in the new root file system
}

// basePackages make a host of a minimal Debian. busybox-static becomes the host's own image busybox.
var basePackages = []string{
	"systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "iproute2", "iptables", "docker.io",
	"ca-certificates", "procps", "busybox-static", "netcat-openbsd",
}

// recipes of the suites that hosts can have, with the packages each needs besides.
var recipes = map[string][]string{
	"bookworm": nil,            // Debian 12, Docker 20.10, OpenSSH 9.2
	"trixie":   {"docker-cli"}, // Debian 13, Docker 26.1, OpenSSH 10.0
}

func recipeFor(distro string) (recipe, error) {
	more, ok := recipes[distro]
	if !ok {
		return recipe{}, mobyfs.Errorf(mobyfs.CodeInvalid, "no image can be made for distro %q", distro).
			WithHint("known are %s; for another give an image of your own with --image",
				strings.Join(slices.Sorted(maps.Keys(recipes)), " and "))
	}
	return recipe{distro: distro, packages: slices.Concat(basePackages, more), finish: finishScript}, nil
}

// hash changes whenever an image made by the recipe would be another.
func (r recipe) hash() string {
	h := sha256.New()
	for _, part := range []string{"1", r.distro, strings.Join(r.packages, ","), r.finish} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

func (r recipe) tag() string { return imageName + ":" + r.distro + "-" + r.hash() }

// makeImages makes the images of ours that the fleet's hosts need and Docker does not have. Two are made at a time,
// and by one process: others wait and then find them made.
func (u *raising) makeImages(ctx context.Context, f Fleet) error {
	missing, err := missingImages(ctx, f)
	if err != nil || len(missing) == 0 {
		return err
	}
	unlock, err := lockImages(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if missing, err = missingImages(ctx, f); err != nil || len(missing) == 0 {
		return err
	}
	if err := sweepBuilds(ctx); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for _, r := range missing {
		g.Go(func() error {
			began := time.Now()
			u.logf("make image %s from Debian's packages, once (a minute or two)", r.tag())
			if err := buildImage(gctx, r, u.Mirror); err != nil {
				return explain(err, "make image %s", r.tag())
			}
			u.logf("made image %s in %.0f s", r.tag(), time.Since(began).Seconds())
			return nil
		})
	}
	return g.Wait()
}

// missingImages are the recipes of the images that Docker lacks. A host that exists has its image.
func missingImages(ctx context.Context, f Fleet) ([]recipe, error) {
	tags, err := lines(ctx, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", imageName)
	if err != nil {
		return nil, err
	}
	var missing []recipe
	for _, h := range f.Hosts {
		if h.Distro == "" || slices.Contains(tags, h.Image) {
			continue
		}
		r, err := recipeFor(h.Distro)
		if err != nil {
			return nil, err
		}
		if r.tag() != h.Image { // made by an older mobyctl, whose recipe is not known any more
			continue
		}
		if !slices.ContainsFunc(missing, func(m recipe) bool { return m.distro == r.distro }) {
			missing = append(missing, r)
		}
	}
	return missing, nil
}

// lockImages lets one process of this machine at a time make or remove images: they belong to Docker, not to a
// user. Only root makes them; a lock of someone else's own is enough to remove them.
func lockImages(ctx context.Context) (unlock func(), err error) {
	if os.Geteuid() == 0 {
		return lockFile(ctx, "/run/mobyfs-sandbox/images.lock")
	}
	root, err := stateRoot()
	if err != nil {
		return nil, err
	}
	return lockFile(ctx, filepath.Join(root, ".images.lock"))
}
