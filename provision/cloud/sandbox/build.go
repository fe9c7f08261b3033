package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/mobyfs/mobyfs"
)

// buildPrefix begins the names of the directories in which images are made, in the root of all states.
const buildPrefix = ".build-"

// buildImage makes the root file system of a host with debootstrap and gives it to Docker. The image gets its name
// last, so a build that was killed leaves no image by that name, only what sweepBuilds removes. The caller has
// the lock of images.
func buildImage(ctx context.Context, r recipe, mirror string) (err error) {
	if err := canBuild(); err != nil {
		return err
	}
	if mirror == "" {
		mirror = machineMirror("/etc/apt")
	}
	state, err := stateRoot()
	if err != nil {
		return err
	}
	root, err := os.MkdirTemp(state, buildPrefix+r.distro+"-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	if err := os.Chmod(root, 0o755); err != nil { // it becomes / of the hosts
		return err
	}
	if err := debootstrap(ctx, r, mirror, root); err != nil {
		return err
	}
	if err := runApart(ctx, "chroot", root, "/bin/sh", "-c", r.finish); err != nil {
		return err
	}
	id, err := importTree(ctx, root, r.hash())
	if err != nil {
		return err
	}
	_, err = docker(ctx, "tag", id, r.tag())
	return err
}

// canBuild tells what is missing to make an image here, and the command that brings it.
func canBuild() error {
	if _, err := exec.LookPath("debootstrap"); err != nil {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "the command debootstrap is missing").
			WithHint("sudo apt-get install -y debootstrap (tools/prepare.sh does it), or give an image of your own with --image")
	}
	if os.Geteuid() != 0 {
		return mobyfs.Errorf(mobyfs.CodeDenied, "only root can make the hosts' image").
			WithHint("make it once as root: sudo %s sandbox up --name image --hosts 2 && sudo %s sandbox down --name image; "+
				"or give an image of your own with --image", os.Args[0], os.Args[0])
	}
	return nil
}

func debootstrap(ctx context.Context, r recipe, mirror, root string) error {
	args := []string{"--variant=minbase", "--include=" + strings.Join(r.packages, ","), r.distro, root}
	if mirror != "" {
		args = append(args, mirror)
	}
	const scripts = "/usr/share/debootstrap/scripts/"
	if _, err := os.Stat(scripts + r.distro); err != nil { // an old debootstrap: all suites go by that of sid
		if mirror == "" {
			return mobyfs.Errorf(mobyfs.CodeInvalid, "this machine's debootstrap is too old to know where %s is", r.distro).
				WithHint("name a mirror of Debian with --mirror")
		}
		args = append(args, scripts+"sid")
	}
	if err := runApart(ctx, "debootstrap", args...); err != nil {
		return explain(err, "debootstrap %s", r.distro)
	}
	return nil
}

// runApart runs a program that mounts things, in such a way that neither its mounts nor its children outlive it
// or this process.
func runApart(ctx context.Context, name string, args ...string) error {
	runtime.LockOSThread() // the child ends with the thread that started it
	defer runtime.UnlockOSThread()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.SysProcAttr = apart()
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return mobyfs.Errorf(mobyfs.CodeInternal, "%w: %s", err, tail(out.String(), 3)).
		WithHint("see whether this machine reaches Debian's mirror; another one can be named with --mirror")
}

// tail is the last n lines of what a program printed, in one.
func tail(out string, n int) string {
	all := strings.Split(strings.TrimSpace(out), "\n")
	return strings.Join(all[max(0, len(all)-n):], " | ")
}

// importTree makes an image without a name of a directory. A tar that ends early is told by its own exit status,
// not by Docker, which takes what it gets.
func importTree(ctx context.Context, root, hash string) (id string, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pack := exec.CommandContext(ctx, "tar", "-C", root, "--numeric-owner", "--xattrs", "--xattrs-include=*", "-cf", "-", ".")
	var said bytes.Buffer
	pack.Stderr, pack.SysProcAttr = &said, apart()
	pipe, err := pack.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := pack.Start(); err != nil {
		return "", err
	}
	out, err := dockerWith(ctx, pipe, "import", "--change", "LABEL "+labelRecipe+"="+hash, "-")
	if err != nil {
		_ = pack.Process.Kill() // it may wait for a reader for ever
	}
	if packErr := pack.Wait(); err == nil && packErr != nil {
		err = fmt.Errorf("tar: %w: %s", packErr, tail(said.String(), 1))
	}
	id = strings.TrimSpace(string(out))
	if err != nil && id != "" {
		_, _ = docker(context.WithoutCancel(ctx), "rmi", id) // if it stays, sweepBuilds finds it
	}
	return id, err
}

// sweepBuilds removes what builds left that were killed: directories, and images that got no name. The caller has
// the lock of images, so no build runs.
func sweepBuilds(ctx context.Context) error {
	root, err := stateRoot()
	if err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(root, buildPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	ids, err := lines(ctx, "image", "ls", "-q", "--filter", "dangling=true", "--filter", "label="+labelRecipe)
	if err != nil || len(ids) == 0 {
		return err
	}
	_, err = docker(ctx, append([]string{"rmi"}, ids...)...)
	return err
}
