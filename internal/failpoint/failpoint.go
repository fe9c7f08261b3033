// Package failpoint lets a test kill a program at a named moment, such as just before a rename.
//
// Programs are built without it. With the build tag failpoints, Reach reads the file that the environment
// variable MOBYFS_KILL_AT names (/run/mobyfs.kill-at if it is not set): if it holds the name of the moment, it is removed and the process ends itself
// with SIGKILL, once. Names are "package.moment", so that a test can list them with grep.
package failpoint
