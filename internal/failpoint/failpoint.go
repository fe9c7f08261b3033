// Package failpoint lets a test make something happen to a program at a named moment, such as just before a rename.
//
// Programs are built without it. With the build tag failpoints, Reach and Fail read the file that the environment
// variable MOBYFS_KILL_AT names (/run/mobyfs.kill-at if it is not set). It holds one line:
//
//	MOMENT                  the process ends itself with SIGKILL
//	MOMENT stall 3s         whoever reached the moment waits there
//	MOMENT error            what was about to be done fails, as if the disk or the other side had refused it
//
// The file is removed first, so it happens once. With a last word "always" it stays and happens each time. MOMENT may
// end in *, for all that begin so. Names are "package.moment", so that a test can list them with grep.
//
// Now is the time by a clock that a test can set wrong.
//
// Without reports which guards the environment variable MOBYFS_WITHOUT switches off (names with commas): so a test can
// show that it would notice if a guard were missing.
package failpoint
