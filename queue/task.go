package queue

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/intervengine/webhooks/models"
)

const (
	// queueName is the asynq queue of all deliveries.
	queueName = "deliveries"
	// taskType is the asynq type of a bundle of deliveries.
	taskType = "delivery"
	// maxBundle bounds the ids of one task: enough to make the claim cheap per delivery, few
	// enough that a slow receiver holds up little else.
	maxBundle = 32
	// payloadVersion is raised when the payload's form changes, so that an older process
	// recognises what it cannot read instead of misreading it.
	payloadVersion = 1
	// maxPayload bounds what is parsed; a full bundle is about 1 KiB.
	maxPayload = 16 << 10
)

// errUnreadable says that a task is not one of ours. It carries nothing of the task's content.
var errUnreadable = errors.New("task is not a bundle of deliveries that this version can read")

// Item asks for one delivery to be picked up.
type Item struct {
	DeliveryID string
	// Attempt is the number of attempts that the delivery has had. It only tells tasks apart.
	Attempt int
	// At is when the delivery is due. Zero or past: now.
	At time.Time
}

type payload struct {
	Version int      `json:"v"`
	IDs     []string `json:"ids"`
}

func encodePayload(ids []string) ([]byte, error) {
	return json.Marshal(payload{Version: payloadVersion, IDs: ids})
}

// decodePayload reads what encodePayload wrote; everything else is errUnreadable.
func decodePayload(kind string, data []byte) ([]string, error) {
	if kind != taskType || len(data) > maxPayload {
		return nil, errUnreadable
	}
	var p payload
	// The parser's own error would quote the content, which may be anybody's.
	if json.Unmarshal(data, &p) != nil || p.Version != payloadVersion || len(p.IDs) == 0 || len(p.IDs) > maxBundle {
		return nil, errUnreadable
	}
	for _, id := range p.IDs {
		if !models.ValidID(models.PrefixDelivery, id) {
			return nil, errUnreadable
		}
	}
	return p.IDs, nil
}

// FormatPayload is a task's payload as the queue's web UI may show it: delivery ids, and of
// anything else only its size.
func FormatPayload(kind string, data []byte) string {
	if _, err := decodePayload(kind, data); err != nil {
		return fmt.Sprintf("unreadable, %d bytes", len(data))
	}
	return string(data)
}

// task is one asynq task to be.
type task struct {
	id    string
	items []Item
	at    time.Time // zero: now
}

func (t task) ids() []string {
	ids := make([]string, len(t.items))
	for i, it := range t.items {
		ids[i] = it.DeliveryID
	}
	return ids
}

// tasksOf bundles what is due at now, in order, and likewise what is due at the same later moment. repair,
// unless empty, makes the ids of the bundles unlike any other: a task that was lost halfway must not
// keep its successor out.
func tasksOf(items []Item, now time.Time, repair string) []task {
	tasks := make([]task, 0, len(items)/maxBundle+1)
	due := make([]Item, 0, len(items))
	later := map[time.Time]int{} // the task that is being filled, by when it is due
	for _, it := range items {
		if !it.At.After(now) {
			due = append(due, it)
			continue
		}
		at := it.At.UTC().Round(0) // comparable
		if n, ok := later[at]; ok && len(tasks[n].items) < maxBundle {
			tasks[n].items = append(tasks[n].items, it)
			continue
		}
		later[at] = len(tasks)
		tasks = append(tasks, task{items: []Item{it}, at: it.At})
	}
	for n := range tasks {
		tasks[n].id = bundleID(tasks[n].items, tasks[n].at)
	}
	for len(due) > 0 {
		n := min(len(due), maxBundle)
		id := bundleID(due[:n], now)
		if repair != "" {
			id += ":" + repair
		}
		tasks = append(tasks, task{id: id, items: due[:n:n]})
		due = due[n:]
	}
	return tasks
}

// singleID is <delivery>:<attempt>:<minute>. Without the minute an archived or orphaned task
// would keep every later one of the attempt out for ever.
func singleID(it Item, at time.Time) string {
	return it.DeliveryID + ":" + strconv.Itoa(it.Attempt) + ":" + strconv.FormatInt(at.Unix()/60, 10)
}

// bundleID is singleID of the first item, and for more of them their count and a hash of them all.
func bundleID(items []Item, now time.Time) string {
	id := singleID(items[0], now)
	if len(items) == 1 {
		return id
	}
	h := fnv.New64a()
	for _, it := range items {
		_, _ = h.Write([]byte(it.DeliveryID))                                      // a hash never fails
		_, _ = h.Write([]byte{':', byte(it.Attempt), byte(it.Attempt >> 8), '\n'}) //nolint:gosec // a hash's input, cut on purpose
	}
	return id + ":" + strconv.Itoa(len(items)) + ":" + strconv.FormatUint(h.Sum64(), 36)
}
