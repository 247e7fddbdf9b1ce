package mmapvet

import (
	"fmt"
	"go/token"
	"slices"
	"strings"
)

// A comment is one that ignores a report of its line.
type comment struct {
	pos      token.Pos
	file     string
	line     int
	category string
	reason   string
	used     bool
}

const commentStart = "//mmapvet:ignore"

func (k *checker) comments() []*comment {
	var all []*comment
	for _, f := range k.pass.Files {
		for _, g := range f.Comments {
			for _, c := range g.List {
				rest, ok := strings.CutPrefix(c.Text, commentStart)
				if !ok || rest != "" && rest[0] != ' ' && rest[0] != '\t' {
					continue
				}
				rest, _, _ = strings.Cut(rest, "//")
				rest = strings.TrimSpace(rest)
				category, reason, _ := strings.Cut(rest, " ")
				at := k.pass.Fset.Position(c.Pos())
				all = append(all, &comment{
					pos: c.Pos(), file: at.Filename, line: at.Line,
					category: category, reason: strings.TrimSpace(reason),
				})
			}
		}
	}
	return all
}

func (k *checker) ignoredBy(all []*comment, f *finding) bool {
	at := k.pass.Fset.Position(f.pos)
	for _, c := range all {
		if c.category == f.category && c.line == at.Line && c.file == at.Filename {
			c.used = true
			return c.reason != ""
		}
	}
	return false
}

// problem says what is wrong with a comment, "" if nothing is.
func (k *checker) problem(c *comment) string {
	switch {
	case c.category == "":
		return "the comment names no category and no reason"
	case !slices.Contains(categories, c.category):
		return fmt.Sprintf("there is no category %q", c.category)
	case c.reason == "":
		return "the comment gives no reason"
	case !c.used && k.looked(c):
		return fmt.Sprintf("nothing of category %s is reported on this line", c.category)
	}
	return ""
}

// looked reports whether a finding of the comment's category would have been seen.
func (k *checker) looked(c *comment) bool {
	if !k.options.enabled(c.category) || len(k.stats.abandoned) > 0 {
		return false
	}
	return c.category != unclosed || k.options.unclosedTests || !strings.HasSuffix(c.file, "_test.go")
}
