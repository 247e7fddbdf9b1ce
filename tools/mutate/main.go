// Command mutate asks how good the tests of the mapping library are: it breaks the
// library in small ways, one at a time, and looks whether the default tests notice.
//
//	go run . -n 150 -seed 1 -shard 1/2   # and 2/2 beside it
//	go run . -only 'remap.go:97'         # what the tests say of these
//
// It works on a copy of the module, so the tree is never changed, and may be
// changed meanwhile. First a fast part of the tests has its say, those that take
// little time each and the state machine in short; then go test ./... . Each mutant
// has its own directory for temporary files and its own process group, a time limit
// and a memory limit. Now and then the library as it is takes a mutant's place: if
// that fails, the tests fail by themselves, and nothing here can be believed.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

var (
	source  = flag.String("module", "../..", "the module's `directory`")
	sample  = flag.Int("n", 150, "how many mutants, of all shards together; 0: all that there are")
	seed    = flag.Uint64("seed", 1, "of the random sample")
	shard   = flag.String("shard", "1/1", "`i/k`: do the i-th of k parts")
	only    = flag.String("only", "", "instead of a sample, every mutant whose name matches this `pattern`")
	after   = flag.String("after", "", "go on after the mutant of this `name`, where an earlier run has stopped")
	list    = flag.Bool("list", false, "list the mutants, do not try them")
	control = flag.Int("control", 20, "after how many mutants the library as it is takes a turn")
	brief   = flag.Bool("fast", false, "the fast part only: for a first look, which knows more survivors than there are")
	explore = flag.Bool("explore", false, "mutants of the latch only, judged by its explorer, and what that leaves by the latch's ordinary tests")
	memory  = flag.Int("memory", 6<<10, "how many `MiB` a mutant's processes may use")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// library are the packages that are mutated.
var library = []string{".", "procmaps", "internal/sys", "internal/perms", "internal/latch", "internal/kernel", "internal/place", "internal/leftover", "internal/fail", "live"}

// judges are the packages whose tests have a fast part. What is in others is left to
// the full tests.
var judges = []string{"procmaps", ".", "systemtest"}

func run(ctx context.Context) error {
	var part, parts int
	if n, _ := fmt.Sscanf(*shard, "%d/%d", &part, &parts); n != 2 || part < 1 || part > parts {
		return fmt.Errorf("no such shard: %s", *shard)
	}
	if *explore {
		library, judges = []string{latchDir}, nil
	}
	all, err := mutants(*source, library...)
	if err != nil {
		return err
	}
	total, most := len(all), len(all)
	if *explore { // which replaces atomics.go
		all = slices.DeleteFunc(all, func(m mutant) bool { return strings.HasSuffix(m.file, "atomics.go") })
		most = len(all)
	}
	if *only != "" {
		wanted, err := regexp.Compile(*only)
		if err != nil {
			return err
		}
		chosen := all[:0]
		for _, m := range all {
			if wanted.MatchString(m.String()) {
				chosen = append(chosen, m)
			}
		}
		all = chosen
	} else {
		rand.New(rand.NewPCG(*seed, 0)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		if *sample > 0 {
			most = (*sample + parts - part) / parts
		}
	}
	var mine []mutant
	for i := part - 1; i < len(all); i += parts {
		mine = append(mine, all[i])
	}
	if *after != "" {
		i := slices.IndexFunc(mine, func(m mutant) bool { return m.String() == *after })
		if i < 0 {
			return fmt.Errorf("this shard has no mutant %q", *after)
		}
		mine = mine[i+1:]
	}
	if *list {
		for _, m := range mine {
			fmt.Println(m)
		}
		return nil
	}
	commit, _ := exec.Command("git", "-C", *source, "describe", "--always", "--dirty").Output()
	fmt.Printf("%d mutants of %s, %s %s/%s, shard %s, seed %d\n", total, bytes.TrimSpace(commit), runtime.Version(), runtime.GOOS, runtime.GOARCH, *shard, *seed)

	b, err := newBench(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	began, tried := time.Now(), 0
	counts := map[verdict]int{}
	for _, m := range mine {
		if tried == most || ctx.Err() != nil {
			break
		}
		start := time.Now()
		v, by, err := b.try(ctx, &m)
		if err != nil {
			return err
		}
		if counts[v]++; v == uncompiled || v == same {
			continue
		}
		tried++
		fmt.Printf("%3d %5.1fs %-18s %v%s\n", tried, time.Since(start).Seconds(), v, m, by)
		if v == survived {
			fmt.Print(m.diff(b.original[m.file]))
		}
		if tried%*control == 0 {
			if v, by, err := b.try(ctx, nil); err != nil || v != survived {
				return errors.Join(err, fmt.Errorf("the library as it is: %v%s", v, by))
			}
			counts[controls]++
		}
	}
	killed := tried - counts[survived]
	fmt.Printf("shard %s, seed %d: %d mutants in %v: %d killed (%.1f %%)", *shard, *seed, tried, time.Since(began).Round(time.Second), killed, 100*float64(killed)/float64(max(tried, 1)))
	for v := same; v <= controls; v++ {
		fmt.Printf(", %d %v", counts[v], v)
	}
	fmt.Println()
	return ctx.Err()
}

// A verdict is what became of a mutant.
type verdict int

const (
	uncompiled verdict = iota
	same
	fast
	full
	hung
	grew
	survived
	controls
)

func (v verdict) String() string {
	return [...]string{"do not compile", "to the same code", "by the fast part", "by all tests", "by a time limit", "by a memory limit", "survived", "controls passed"}[v]
}
