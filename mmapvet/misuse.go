package mmapvet

import "fmt"

// misused reports the use of a handle that is moved or closed. Such a call fails.
func (w *walk) misused(st *state, c *site, name string) bool {
	v := c.args[0]
	return v.op == opZero || tracked(v) && w.gone(st, c, v, name)
}

func (w *walk) gone(st *state, c *site, v *term, name string) bool {
	h := st.handles.get(v)
	switch h.status {
	case isMoved:
		w.findMoved(st, c, h, name, "ErrMoved")
	case isClosed:
		w.find(st, &finding{
			category: closed, pos: c.pos, fails: w.errorOf(c),
			message: fmt.Sprintf("%s returns ErrClosed: the mapping was closed on line %d", name, w.line(h.by)),
			related: []place{{h.by, "closed here"}},
		})
	default:
		return false
	}
	return true
}

func (w *walk) findMoved(st *state, c *site, h mapping, name, returns string) {
	w.find(st, &finding{
		category: moved, pos: c.pos, fails: w.errorOf(c),
		message: fmt.Sprintf("%s returns %s: %s consumed this handle on line %d",
			name, returns, w.names[h.by], w.line(h.by)),
		related: []place{{h.by, "consumed here"}},
	})
}

// asked reports a question to a handle that is moved, which returns nothing.
func (w *walk) asked(st *state, c *site, name string) {
	if h := st.handles.get(c.args[0]); tracked(c.args[0]) && h.status == isMoved {
		w.findMoved(st, c, h, name, nothing(name))
	}
}

// nothing is what a method returns of a handle that is no longer good.
func nothing(name string) string {
	switch name {
	case "Prot", "ProtOf":
		return "ProtNone"
	case "UnsafeBytes":
		return "nil"
	}
	return "0"
}

// isBusy reports a transition of a mapping that is viewed or pinned. Such a call fails.
func (w *walk) isBusy(st *state, c *site, name string) bool {
	busyOne := false
	for i, v := range c.args {
		if i > 1 || i > 0 && name != "Join" || !tracked(v) || st.drains > 0 || st.handles.get(v).status != isLive {
			continue
		}
		for _, viewed := range st.views {
			if viewed == v {
				busyOne = true
				w.find(st, &finding{
					category: busy, pos: c.pos, fails: w.errorOf(c),
					message: fmt.Sprintf("%s returns ErrBusy: it is called within a view of the mapping", name),
				})
			}
		}
		for _, p := range st.pins.all() {
			if p.of == v && p.owned && !p.ended {
				busyOne = true
				w.find(st, &finding{
					category: busy, pos: c.pos, fails: w.errorOf(c),
					message: fmt.Sprintf("%s returns ErrBusy: the mapping is pinned since line %d", name, w.line(p.at)),
					related: []place{{p.at, "pinned here"}},
				})
			}
		}
	}
	return busyOne
}
