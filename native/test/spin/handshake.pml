/* The two wake handshakes of core with explicit store buffers. Two processes: `producer` and `consumer`.
 *
 *   data wake   Producer::publish, Producer::wake_needed, BellWriter::ring, BellWriter::doorbell_needed
 *               against RecordCursor::published, Consumer::park, Sleeper::announce, BellReader::changed and take
 *   space wake  Consumer::publish_released, space_wake_needed, BellWriter::ring, doorbell_needed
 *               against Producer::want_space, reload, Sleeper::announce, BellReader::changed and take   (-DSPACE)
 *
 * The same code serves both: the side that sleeps is `waiter`, the side that makes news is `maker`. Counts stand for
 * positions: the maker's word `news` is the number of published records (data) or of released ones (space); the waiter's word
 * `want` is wake_at + 1 or space_at, the count at which it wants the bell.
 *
 * Store buffers: one array per process; a store appends, process `memory` makes one store visible at a time.
 * TSO: only the oldest. -DPSO: the oldest of any word, a release store (RELEASE) only when it is the oldest of all.
 * Loads see the newest own store to the word, else memory. FENCE waits for an empty buffer.
 * -DNO_FENCE_…: that Site of core/atomics.hpp does nothing. -DRELAXED_BELL: Site::ring_bell is a relaxed store.
 * The doorbell (an eventfd) is not memory: rung at once, consumed by the one that sleeps on it.
 *
 * Checked: no invalid end state, that is, nobody sleeps for ever while there is news; and that what is taken was published. */

#ifndef ITEMS
#define ITEMS 2
#endif
#define CAP 6      /* entries of a store buffer */

#define WORDS 5
#define NEWS 0     /* maker: record header words / reader.released */
#define TOTAL 1    /* maker: bells[0], the count of all rings */
#define GROUP 2    /* maker: bells[group] */
#define WANT 3     /* waiter: reader.wake_at / head.space_at */
#define ASLEEP 4   /* waiter: the sleep word */

#define MAKER 0
#define WAITER 1

byte mem[WORDS];
byte word[12];     /* store buffers, CAP entries each: word … */
byte value[12];    /* … value … */
bool rel[12];      /* … is a release store */
byte held[2];
bool doorbell;     /* of the waiter */
bool asleep_now;   /* for the printout of a trail only */

#define AT(p, i) ((p) * CAP + (i))

/* A::store_relaxed and A::store_release */
inline STORE(p, w, v, r) {
  d_step {
    assert(held[p] < CAP);
    word[AT(p, held[p])] = w; value[AT(p, held[p])] = v; rel[AT(p, held[p])] = r;
    held[p]++
  }
}
/* A::load_relaxed and A::load_acquire: the newest own store, else memory */
inline LOAD(p, w, out) {
  d_step {
    out = mem[w];
    k = 0;
    do
    :: k < held[p] ->
       if
       :: word[AT(p, k)] == w -> out = value[AT(p, k)]
       :: else
       fi;
       k++
    :: else -> break
    od;
    k = 0
  }
}
#define FENCE(p) (held[p] == 0)

/* Entry i of p becomes visible. */
inline FLUSH(p, i) {
  mem[word[AT(p, i)]] = value[AT(p, i)];
  k = i;
  do
  :: k + 1 < held[p] ->
     word[AT(p, k)] = word[AT(p, k + 1)]; value[AT(p, k)] = value[AT(p, k + 1)]; rel[AT(p, k)] = rel[AT(p, k + 1)];
     k++
  :: else -> break
  od;
  held[p]--;
  word[AT(p, held[p])] = 0; value[AT(p, held[p])] = 0; rel[AT(p, held[p])] = 0;
  k = 0
}
#ifdef PSO
/* Entry i may overtake those before it: no release, and none before it is to the same word. */
#define OTHER(p, i, j) (word[AT(p, i)] != word[AT(p, j)])
#define MAY1(p) (held[p] > 1 && !rel[AT(p, 1)] && OTHER(p, 1, 0))
#define MAY2(p) (held[p] > 2 && !rel[AT(p, 2)] && OTHER(p, 2, 0) && OTHER(p, 2, 1))
#define MAY3(p) (held[p] > 3 && !rel[AT(p, 3)] && OTHER(p, 3, 0) && OTHER(p, 3, 1) && OTHER(p, 3, 2))
#define MAY4(p) (held[p] > 4 && !rel[AT(p, 4)] && OTHER(p, 4, 0) && OTHER(p, 4, 1) && OTHER(p, 4, 2) && OTHER(p, 4, 3))
#define MAY5(p) (held[p] > 5 && !rel[AT(p, 5)] && OTHER(p, 5, 0) && OTHER(p, 5, 1) && OTHER(p, 5, 2) && OTHER(p, 5, 3) && OTHER(p, 5, 4))
#endif

active proctype memory() {
  byte k;
end:
  do
  :: d_step { held[MAKER] > 0 -> FLUSH(MAKER, 0) }
  :: d_step { held[WAITER] > 0 -> FLUSH(WAITER, 0) }
#ifdef PSO
  :: d_step { MAY1(MAKER) -> FLUSH(MAKER, 1) }
  :: d_step { MAY2(MAKER) -> FLUSH(MAKER, 2) }
  :: d_step { MAY3(MAKER) -> FLUSH(MAKER, 3) }
  :: d_step { MAY4(MAKER) -> FLUSH(MAKER, 4) }
  :: d_step { MAY5(MAKER) -> FLUSH(MAKER, 5) }
  :: d_step { MAY1(WAITER) -> FLUSH(WAITER, 1) }
  :: d_step { MAY2(WAITER) -> FLUSH(WAITER, 2) }
  :: d_step { MAY3(WAITER) -> FLUSH(WAITER, 3) }
  :: d_step { MAY4(WAITER) -> FLUSH(WAITER, 4) }
  :: d_step { MAY5(WAITER) -> FLUSH(WAITER, 5) }
#endif
  od
}

/* data: the producer; space: the consumer */
active proctype maker() {
  byte k, made, checked, bells, wanted, sleeping;
  do
  :: made < ITEMS ->
     (held[MAKER] + 3 <= CAP);                   /* room in the buffer for one round */
     made++;
     STORE(MAKER, NEWS, made, true);            /* publish_record: Producer::publish · publish_released: Consumer::publish_released */
     if
     :: made < ITEMS -> goto again              /* several commits may share one check */
     :: true
     fi;
#ifdef SPACE
#ifndef NO_FENCE_RELEASED
     FENCE(MAKER);                              /* fence_released: Consumer::space_wake_needed */
#endif
#else
#ifndef NO_FENCE_PUBLISHED
     FENCE(MAKER);                              /* fence_published: Producer::wake_needed */
#endif
#endif
     LOAD(MAKER, WANT, wanted);                 /* reader.wake_at · head.space_at */
     if
     :: wanted > checked && wanted <= made ->   /* announced in (old, now]: old is the position of the last check */
        checked = made;
        bells++;
        STORE(MAKER, GROUP, bells, false);      /* BellWriter::ring: the group's count … */
#ifdef RELAXED_BELL
        STORE(MAKER, TOTAL, bells, false);
#else
        STORE(MAKER, TOTAL, bells, true);       /* … ring_bell: the total */
#endif
#ifndef NO_FENCE_BELL
        FENCE(MAKER);                           /* fence_bell: BellWriter::doorbell_needed */
#endif
        LOAD(MAKER, ASLEEP, sleeping);
        if
        :: sleeping -> doorbell = true
        :: else
        fi
     :: else -> checked = made
     fi;
again: skip
  :: else -> break
  od
}

/* data: the consumer; space: the producer */
active proctype waiter() {
  byte k, taken, seen_total, seen_group, now, group;
  do
  :: taken < ITEMS ->
look:
     LOAD(WAITER, NEWS, now);                   /* RecordCursor::next · Producer::reload */
     assert(now <= ITEMS);
     if
     :: now > taken -> taken++; goto next
     :: else
     fi;
     (held[WAITER] + 1 <= CAP);
     STORE(WAITER, WANT, taken + 1, false);     /* Consumer::park: wake_at · Producer::want_space: space_at */
#ifdef SPACE
#ifndef NO_FENCE_WANT_SPACE
     FENCE(WAITER);                             /* fence_want_space */
#endif
#else
#ifndef NO_FENCE_PARK
     FENCE(WAITER);                             /* fence_park */
#endif
#endif
     LOAD(WAITER, NEWS, now);                   /* look again: published() · reload() */
     if
     :: now > taken -> goto look
     :: else
     fi;
     /* From here on the ring is not looked at until the bell of its group has been rung. */
parked:
     (held[WAITER] + 2 <= CAP);
     STORE(WAITER, ASLEEP, 1, false);           /* Sleeper::announce */
#ifndef NO_FENCE_SLEEP
     FENCE(WAITER);                             /* fence_sleep */
#endif
     LOAD(WAITER, TOTAL, now);                  /* BellReader::changed */
     if
     :: now == seen_total -> asleep_now = true; doorbell -> d_step { doorbell = false; asleep_now = false }
     :: else
     fi;
     STORE(WAITER, ASLEEP, 0, false);           /* Sleeper::awake */
     LOAD(WAITER, TOTAL, seen_total);           /* BellReader::take */
     LOAD(WAITER, GROUP, group);
     if
     :: group != seen_group -> seen_group = group; goto look
     :: else -> goto parked
     fi;
next: skip
  :: else -> break
  od
}
