package collective

// Chosen is the algorithm by which Do would carry c out, so that it can be shown. Shared may still end as messages,
// where the transport cannot do the operation in memory.
func (g *Group) Chosen(c *Call) (Algorithm, error) {
	if err := c.check(g.rank, g.World()); err != nil {
		return Auto, err
	}
	return g.choose(c)
}
