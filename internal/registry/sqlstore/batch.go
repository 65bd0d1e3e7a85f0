package sqlstore

import (
	"context"
	"database/sql"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// stmt is one statement of a batch.
type stmt struct {
	query string
	args  []any
	// row, if not nil, is called for every row of the result.
	row func(scan func(...any) error) error
	// changed, if not nil, receives the number of rows that the statement changed.
	changed *int64
}

// into returns a row func that scans a result of one row into fields.
func into(fields ...any) func(scan func(...any) error) error {
	return func(scan func(...any) error) error { return scan(fields...) }
}

// each returns a row func that appends every row to all.
func each[T any](all *[]*T, fields func(*T) []any) func(scan func(...any) error) error {
	return func(scan func(...any) error) error {
		v := new(T)
		if err := scan(fields(v)...); err != nil {
			return err
		}
		*all = append(*all, v)
		return nil
	}
}

// access is the purpose of a batch's transaction.
type access int

const (
	reading access = iota // all statements see the same point in time
	writing               // each statement sees everything committed before it began
)

// batch is a transaction whose statements are sent without waiting for the result of each.
// With PostgreSQL it takes one round trip, so the row lock of a write is not held while
// results travel over the network.
type batch struct {
	access access
	// first returns the statements. It is called again for every attempt, so it must reset
	// whatever the row funcs have collected.
	first func() []stmt
	// then, if not nil, is called once the results of first have arrived. It returns
	// further statements for the same transaction, which take a second round trip, or none
	// to commit at once.
	then func() []stmt
}

// run runs a batch and retries it when it conflicts with another transaction.
func (d *dialect) run(ctx context.Context, db *sql.DB, b batch) error {
	var err error
	for range tries {
		if d.numbered {
			err = d.pipelined(ctx, db, b)
		} else {
			err = d.inSequence(ctx, db, b)
		}
		if err == nil || !d.again(err) || ctx.Err() != nil {
			break
		}
	}
	return err
}

// inSequence runs a batch statement by statement, for databases without network round
// trips.
func (d *dialect) inSequence(ctx context.Context, db *sql.DB, b batch) error {
	opts := d.read
	if b.access == writing {
		opts = d.write
	}
	if err := d.check(); err != nil {
		return err
	}
	t, err := db.BeginTx(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { _ = t.Rollback() }() // no effect after a commit
	for _, st := range b.first() {
		if err := runOne(ctx, t, st); err != nil {
			return err
		}
	}
	if b.then != nil {
		for _, st := range b.then() {
			if err := runOne(ctx, t, st); err != nil {
				return err
			}
		}
	}
	if err := t.Commit(); err != nil || b.access == reading {
		return err
	}
	return d.check() // a write to a file that has been replaced is lost
}

func runOne(ctx context.Context, t *sql.Tx, st stmt) error {
	if st.row == nil {
		result, err := t.ExecContext(ctx, st.query, st.args...)
		if err == nil && st.changed != nil {
			*st.changed, err = result.RowsAffected()
		}
		return err
	}
	rows, err := t.QueryContext(ctx, st.query, st.args...)
	if err != nil {
		return err
	}
	defer rows.Close() // rows.Err returns its error
	for rows.Next() {
		if err := st.row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// pipelined runs a batch in one round trip, or two if then returns statements.
func (d *dialect) pipelined(ctx context.Context, db *sql.DB, b batch) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() // returns it to the pool
	return conn.Raw(func(driverConn any) error {
		c := driverConn.(*stdlib.Conn).Conn() // OpenPostgres uses this driver
		err := d.send(ctx, c, b)
		if err != nil && !c.IsClosed() && c.PgConn().TxStatus() != 'I' {
			end, cancel := context.WithTimeout(ctx, connectTime)
			defer cancel()
			if _, rollback := c.Exec(end, "ROLLBACK"); rollback != nil {
				_ = c.Close(end) // makes the server roll back
			}
		}
		return err
	})
}

func (d *dialect) send(ctx context.Context, c *pgx.Conn, b batch) error {
	begin := d.beginRead
	if b.access == writing {
		begin = d.beginWrite
	}
	p := &pgx.Batch{}
	p.Queue(begin)
	d.queue(p, b.first())
	if b.then != nil {
		if err := c.SendBatch(ctx, p).Close(); err != nil {
			return err
		}
		p = &pgx.Batch{}
		d.queue(p, b.then())
	}
	p.Queue("COMMIT")
	return c.SendBatch(ctx, p).Close()
}

func (d *dialect) queue(p *pgx.Batch, stmts []stmt) {
	for _, st := range stmts {
		q := p.Queue(d.sql(st.query), st.args...)
		switch {
		case st.row != nil:
			q.Query(func(rows pgx.Rows) error {
				for rows.Next() {
					if err := st.row(rows.Scan); err != nil {
						return err
					}
				}
				return rows.Err()
			})
		case st.changed != nil:
			q.Exec(func(tag pgconn.CommandTag) error {
				*st.changed = tag.RowsAffected()
				return nil
			})
		}
	}
}

// bounded adds the deadline for operations other than looks and loads, which have
// deadlines of their own.
func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, operationTime+time.Duration(maxRoundTrips)*s.link.roundTrip())
}

const (
	// operationTime bounds an operation on the database, in addition to the time for its
	// round trips.
	operationTime = 10 * time.Second
	// maxRoundTrips is an upper bound on the round trips of one operation.
	maxRoundTrips = 4
)
