//go:build linux

package systemtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// documents returns the texts of all Markdown files, by their paths from the root.
func documents(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() != ".." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(path, ".md"):
			text, err := os.ReadFile(path)
			all[strings.TrimPrefix(path, "../")] = string(text)
			return err
		}
		return nil
	})
	if err != nil || len(all) < 10 {
		t.Fatalf("%d documents: %v", len(all), err)
	}
	return all
}

var (
	fenced  = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	inline  = regexp.MustCompile("`[^`\n]*`")
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)|^\[[^]]+\]: (\S+)$`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	marks   = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors returns the anchors of a document's headings, as GitHub makes them.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		all[strings.ReplaceAll(marks.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return all
}

// Every link within the repository leads to a file that is there, and to a heading that it
// has. Those to the outside are for a job of CI, for tests need no network.
func TestLinks(t *testing.T) {
	all, found := documents(t), 0
	for name, text := range all {
		for line := range strings.Lines(inline.ReplaceAllString(fenced.ReplaceAllString(text, ""), "")) {
			for _, m := range link.FindAllStringSubmatch(strings.TrimSpace(line), -1) {
				target := m[1] + m[2]
				if strings.Contains(target, "://") {
					continue
				}
				found++
				path, anchor, _ := strings.Cut(target, "#")
				to := name
				if path != "" {
					to = filepath.Join(filepath.Dir(name), path)
				}
				if _, err := os.Stat(filepath.Join("..", to)); err != nil {
					t.Errorf("%s: %s leads nowhere", name, target)
				} else if anchor != "" && !anchors(all[to])[anchor] {
					t.Errorf("%s: %s has no heading #%s", name, to, anchor)
				}
			}
		}
	}
	if found < 40 {
		t.Errorf("only %d links", found)
	}
}

// What README says first fits on a page, and so does all of it.
func TestReadmeSize(t *testing.T) {
	if n := len(documents(t)["README.md"]); n > 10_000 {
		t.Errorf("README.md has %d bytes", n)
	}
}
