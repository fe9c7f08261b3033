// Package failpoint lets a test make something happen to a program at a named moment, such as just before a rename.
//
// Programs are built without it. With the build tag failpoints, Reach and Fail read the file that the environment
// variable MOBYFS_KILL_AT names (/run/mobyfs.kill-at if it is not set). It holds one line:
//
//	MOMENT                  the process ends itself with SIGKILL
//	MOMENT stall 3s         whoever reached the moment waits there
//	MOMENT hold             whoever reached the moment waits there until it is let go, see below
//	MOMENT note always      the moment's name is written down, behind those that were before
//	MOMENT error            what was about to be done fails, as if the disk or the other side had refused it
//
// The file is removed first, so it happens once. With a last word "always" it stays and happens each time. MOMENT may
// end in *, for all that begin so. Names are "package.moment", so that a test can list them with grep.
//
// For a hold the file is not removed but renamed, with .held behind its name: that tells the test that the moment was
// reached. Whoever reached it goes on once the test has removed that file. A hold takes no "always".
//
// Notes stand in a file with .noted behind the name, a line each: with * as MOMENT they tell which moments a program
// comes to, and how often.
//
// Now is the time by a clock that a test can set wrong.
//
// Without reports which guards the environment variable MOBYFS_WITHOUT switches off (names with commas): so a test can
// show that it would notice if a guard were missing.
package failpoint
