#include "tree/summary.h"

#include <dirent.h>
#include <sys/stat.h>

#include "tree/state.h"

/* All layers are walked together, depth first. A directory of the walk is a path: the directories
 * of every layer that have it, whether they merge or not. What hides them is kept as *cuts*:
 * layers that hide everything that the layers below them have in the directory. */

#define BUDGET 65536u /* names or inodes in one call of um_summary_step */
#define NO_LAYER UINT32_MAX

/* The directory of one layer. */
struct stratum {
    struct um_part part;
    bool hides; /* it, or a directory of the layer that it is in, is opaque or replaced */
};

/* A name in a stratum. */
struct version {
    struct um_slice name;
    uint32_t place; /* of the stratum in its frame */
    uint32_t dirent, inode;
    uint8_t type;
};

struct cuts {
    uint32_t *layers; /* ascending */
    size_t n;
    bool owned; /* else they belong to the frame below on the stack */
};

struct frame {
    struct stratum *strata; /* of ascending layers */
    uint32_t n_strata;
    struct cuts cuts;
    struct version *versions; /* by name, then ascending layers */
    size_t n, at, capacity;
    size_t path_size; /* of the directory's own path, while paths are listed */
};

struct um_summary {
    struct um_tree *tree;
    struct um_layer_summary *layers;
    struct um_path_summary paths;
    uint64_t **shown; /* for each layer a bit for each inode */
    struct frame *frames;
    size_t n_frames, frames_capacity;
    uint32_t counted_layer, counted_inode; /* how far bytes are counted */
    struct listing *listing;               /* NULL until paths are listed */
};

/* A second walk, which lists paths: by then it is known what the image shows. */
struct listing {
    char *path;
    size_t path_size, path_capacity;
    struct um_path_version *found; /* of the present name */
    uint32_t *inodes;              /* of these */
    size_t n, capacity, inodes_capacity;
    struct um_layer_summary *layers; /* what the first walk counted */
    struct um_path_summary paths;
};

/* What a name is so far, going up from layer to layer. */
struct state {
    enum { NOTHING, FILE_SHOWN, DIRECTORY_SHOWN } kind;
    uint32_t layer;      /* the layer that shows it */
    struct um_part part; /* of the file */
    uint64_t stored, least;
    bool is_stored; /* some layer has a file of this name */
};

/* The directories of one name, collected. */
struct inside {
    struct stratum *strata;
    uint32_t n_strata;
    uint32_t *cuts; /* layers that hide what is below, ascending */
    size_t n_cuts;
};

/* ---- cuts ---------------------------------------------------------------------------------------- */

/* Return the first cut above a layer. */
static uint32_t next_cut(const struct cuts *cuts, uint32_t layer)
{
    size_t low = 0, high = cuts->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (cuts->layers[middle] <= layer)
            low = middle + 1;
        else
            high = middle;
    }
    return low < cuts->n ? cuts->layers[low] : NO_LAYER;
}

/* Return whether the layer has the directory, and hides what is below it. */
static bool is_hiding(const struct frame *frame, uint32_t layer)
{
    uint32_t low = 0, high = frame->n_strata;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (frame->strata[middle].part.layer < layer)
            low = middle + 1;
        else
            high = middle;
    }
    return low < frame->n_strata && frame->strata[low].part.layer == layer &&
           frame->strata[low].hides;
}

/* Join the cuts of a directory and those of one in it, both ascending. */
static int join_cuts(const struct cuts *outer, const uint32_t *own, size_t n_own, struct cuts *out)
{
    *out = (struct cuts){.layers = outer->layers, .n = outer->n};
    if (n_own == 0)
        return 0;
    uint32_t *joined = malloc((outer->n + n_own) * sizeof *joined);
    if (joined == NULL)
        return -ENOMEM;
    *out = (struct cuts){.layers = joined, .owned = true};
    for (size_t i = 0, j = 0; i < outer->n || j < n_own;) {
        bool from_own = j < n_own && (i == outer->n || own[j] <= outer->layers[i]);
        uint32_t layer = from_own ? own[j++] : outer->layers[i++];
        if (out->n == 0 || joined[out->n - 1] != layer)
            joined[out->n++] = layer;
    }
    return 0;
}

/* ---- frames -------------------------------------------------------------------------------------- */

static void frame_close(struct frame *frame)
{
    free(frame->strata);
    free(frame->versions);
    if (frame->cuts.owned)
        free(frame->cuts.layers);
}

static int gather(const struct um_tree *tree, struct frame *frame, uint32_t place)
{
    struct um_part part = frame->strata[place].part;
    const struct um_layer *layer = &tree->layers[part.layer];
    struct um_children children;
    int error = um_layer_children(layer, part.inode, &children);
    if (error == 0)
        error = um_reserve((void **)&frame->versions, &frame->capacity, frame->n + children.n,
                           sizeof *frame->versions);
    for (uint32_t i = 0; error == 0 && i < children.n; i++) {
        struct um_child child;
        error = um_layer_child(layer, &children, i, &child);
        if (error == 0)
            frame->versions[frame->n++] =
                (struct version){child.name, place, child.dirent, child.inode, child.type};
    }
    return error;
}

static int compare_versions(const void *a, const void *b)
{
    const struct version *left = (const struct version *)a, *right = (const struct version *)b;
    int order = um_slice_compare(left->name, right->name);
    return order ? order : (left->place > right->place) - (left->place < right->place);
}

/* Push a directory. `frame` is taken over, even on failure. */
static int push(struct um_summary *summary, struct frame *frame)
{
    int error = 0;
    for (uint32_t place = 0; error == 0 && place < frame->n_strata; place++)
        error = gather(summary->tree, frame, place);
    if (error == 0 && frame->n_strata > 1 && frame->n != 0) /* one layer's are sorted */
        qsort(frame->versions, frame->n, sizeof *frame->versions, compare_versions);
    if (error == 0)
        error = um_reserve((void **)&summary->frames, &summary->frames_capacity,
                           summary->n_frames + 1, sizeof *summary->frames);
    if (error == 0)
        summary->frames[summary->n_frames++] = *frame;
    else
        frame_close(frame);
    return error;
}

static int push_root(struct um_summary *summary)
{
    const struct um_tree *tree = summary->tree;
    struct frame frame = {.n_strata = tree->n_layers};
    um_autofree uint32_t *cuts = calloc((size_t)tree->n_layers + 1, sizeof *cuts);
    size_t n_cuts = 0;
    frame.strata = calloc((size_t)tree->n_layers + 1, sizeof *frame.strata);
    int error = cuts && frame.strata ? 0 : -ENOMEM;
    for (uint32_t layer = 0; error == 0 && layer < tree->n_layers; layer++) {
        uint32_t flags;
        error = um_layer_flags(&tree->layers[layer], 0, &flags);
        frame.strata[layer] = (struct stratum){{.layer = layer}, flags & UM_INODE_OPAQUE};
        if (flags & UM_INODE_OPAQUE)
            cuts[n_cuts++] = layer;
    }
    if (error == 0)
        error = join_cuts(&(struct cuts){0}, cuts, n_cuts, &frame.cuts);
    if (error == 0)
        return push(summary, &frame);
    frame_close(&frame);
    return error;
}

/* Push the directories of a name; `inside->strata` is taken over. */
static int push_inside(struct um_summary *summary, const struct frame *parent,
                       struct inside *inside)
{
    struct frame frame = {.strata = um_steal(&inside->strata), .n_strata = inside->n_strata};
    frame.path_size = summary->listing != NULL ? summary->listing->path_size : 0;
    int error = join_cuts(&parent->cuts, inside->cuts, inside->n_cuts, &frame.cuts);
    if (error == 0)
        return push(summary, &frame);
    frame_close(&frame);
    return error;
}

/* ---- one name ------------------------------------------------------------------------------------ */

/* Hide the file that was shown. */
static void hide(struct state *state, bool deleted)
{
    if (state->kind == FILE_SHOWN && deleted)
        state->least = 0;
    state->kind = NOTHING;
}

/* Hide what a cut below `end` hides, and count it where the layer has the directory itself. */
static void apply_cut(struct um_summary *summary, const struct frame *frame, uint32_t end,
                      struct state *state)
{
    if (state->kind == NOTHING)
        return;
    uint32_t cut = next_cut(&frame->cuts, state->layer);
    if (cut >= end)
        return;
    if (is_hiding(frame, cut))
        summary->layers[cut].deleted++;
    hide(state, true);
}

static void count(struct um_layer_summary *layer, const struct state *was)
{
    if (was->kind == NOTHING)
        layer->added++;
    else
        layer->changed++;
}

/* Return the bytes that a version stores; those of a file of several names belong to the first. */
static int stored_bytes(const struct um_layer *layer, const struct version *version,
                        const struct um_inode *inode, uint64_t *bytes)
{
    struct um_index_link link = {.inode = version->inode, .dirent = version->dirent};
    uint32_t first;
    int error = 0;
    *bytes = 0;
    if (!S_ISREG(inode->mode) || version->type == DT_UNKNOWN)
        return 0;
    if (inode->nlink > 1)
        error = um_index_links_from(layer->index, version->inode, &first);
    if (error == 0 && inode->nlink > 1)
        error = um_index_link(layer->index, first, &link);
    if (error == 0 && link.dirent == version->dirent)
        error = um_layer_stored(layer, inode, bytes);
    return error;
}

/* Note a version of the path that is being listed. The file itself may be in a lower layer than its
 * name, which then stores nothing. */
static int note_version(struct listing *listing, struct um_part part, uint32_t layer,
                        uint64_t bytes)
{
    size_t n = listing->n + 1;
    int error = um_reserve((void **)&listing->found, &listing->capacity, n, sizeof *listing->found);
    if (error == 0)
        error = um_reserve((void **)&listing->inodes, &listing->inodes_capacity, n,
                           sizeof *listing->inodes);
    if (error != 0)
        return error;
    listing->inodes[listing->n] = part.layer == layer ? part.inode : UM_INDEX_NONE;
    listing->found[listing->n++] = (struct um_path_version){.layer = layer, .bytes = bytes};
    return 0;
}

/* Apply a version that is no directory. */
static int take_file(struct um_summary *summary, const struct frame *frame,
                     const struct version *version, struct um_part part,
                     const struct um_inode *inode, struct state *state)
{
    uint32_t layer = frame->strata[version->place].part.layer;
    uint64_t bytes;
    int error = stored_bytes(&summary->tree->layers[layer], version, inode, &bytes);
    if (error != 0)
        return error;
    if (summary->listing != NULL && S_ISREG(inode->mode))
        error = note_version(summary->listing, part, layer, bytes);
    if (error != 0)
        return error;
    count(&summary->layers[layer], state);
    hide(state, false);
    state->kind = FILE_SHOWN;
    state->layer = layer;
    state->part = part;
    state->least = state->is_stored && state->least < bytes ? state->least : bytes;
    state->stored += bytes;
    state->is_stored = true;
    return 0;
}

static void take_directory(struct um_summary *summary, const struct frame *frame,
                           const struct version *version, uint32_t flags, struct state *state,
                           struct inside *inside)
{
    const struct stratum *in = &frame->strata[version->place];
    uint32_t layer = in->part.layer;
    bool replaces = flags & UM_INODE_REPLACES, own_hides = replaces || (flags & UM_INODE_OPAQUE);
    bool only_mentioned = (flags & UM_INODE_IMPLIED) && !replaces;
    if (!only_mentioned || state->kind != DIRECTORY_SHOWN)
        count(&summary->layers[layer], state);
    if (state->kind == FILE_SHOWN)
        hide(state, true);
    state->kind = DIRECTORY_SHOWN;
    state->layer = layer;
    inside->strata[inside->n_strata++] =
        (struct stratum){{layer, version->inode}, in->hides || own_hides};
    if (own_hides)
        inside->cuts[inside->n_cuts++] = layer;
}

/* Apply one layer's version of a name. */
static int take_version(struct um_summary *summary, const struct frame *frame,
                        const struct version *version, struct state *state, struct inside *inside)
{
    const struct stratum *in = &frame->strata[version->place];
    struct um_hit hit = {.directory = in->part,
                         .child = {.name = version->name,
                                   .dirent = version->dirent,
                                   .inode = version->inode,
                                   .type = version->type}};
    struct um_part part = in->part;
    struct um_inode inode = {0};
    int error = -ENOENT;
    apply_cut(summary, frame, in->part.layer, state);
    if (version->type == DT_DIR)
        error = um_layer_child_inode(&summary->tree->layers[in->part.layer], in->part.inode,
                                     &hit.child, &inode);
    else if (version->type != DT_WHT)
        error = um_tree_hit_inode(summary->tree, &hit, &part, &inode);
    if (error != 0 && error != -ENOENT)
        return error;
    if (error == 0 && version->type == DT_DIR) {
        take_directory(summary, frame, version, inode.flags, state, inside);
        return 0;
    }
    inside->cuts[inside->n_cuts++] = in->part.layer;
    if (error == 0)
        return take_file(summary, frame, version, part, &inode, state);
    if (state->kind != NOTHING) /* a whiteout, or a link to nowhere */
        summary->layers[in->part.layer].deleted++;
    hide(state, true);
    return 0;
}

/* Finish a name: the image shows what the state ended with. */
static void finish_name(struct um_summary *summary, const struct frame *frame, struct state *state)
{
    apply_cut(summary, frame, NO_LAYER, state);
    if (state->kind == FILE_SHOWN)
        summary->shown[state->part.layer][state->part.inode / 64] |= 1ull << state->part.inode % 64;
    summary->paths.stored += state->stored;
    summary->paths.least += state->is_stored ? state->least : 0;
}

/* Join the path of a name to that of its directory. */
static int join_name(struct listing *listing, const struct frame *frame, struct um_slice name)
{
    size_t at = frame->path_size;
    int error = um_reserve((void **)&listing->path, &listing->path_capacity, at + name.size + 1, 1);
    if (error != 0)
        return error;
    if (at != 0)
        listing->path[at++] = '/';
    memcpy(listing->path + at, name.data, name.size);
    listing->path_size = at + name.size;
    listing->n = 0;
    return 0;
}

static int take_name(struct um_summary *summary, size_t n_frame, size_t first, size_t n)
{
    struct frame *frame = &summary->frames[n_frame];
    if (summary->listing != NULL) {
        int failed = join_name(summary->listing, frame, frame->versions[first].name);
        if (failed != 0)
            return failed;
    }
    struct state state = {0};
    um_autofree struct stratum *strata = malloc(n * sizeof *strata);
    um_autofree uint32_t *cuts = malloc(n * sizeof *cuts);
    struct inside inside = {.strata = strata, .cuts = cuts};
    int error = strata && cuts ? 0 : -ENOMEM;
    for (size_t i = first; error == 0 && i < first + n; i++)
        error = take_version(summary, frame, &frame->versions[i], &state, &inside);
    if (error != 0)
        return error;
    finish_name(summary, frame, &state);
    if (inside.n_strata == 0)
        return 0;
    strata = NULL; /* the frame's */
    return push_inside(summary, frame, &inside);
}

/* ---- all ------------------------------------------------------------------------------------------ */

/* Step to the next name: how many versions it has, 0 at the end, or an errno. */
static int64_t step_names(struct um_summary *summary)
{
    while (summary->n_frames != 0) {
        size_t number = summary->n_frames - 1;
        struct frame *frame = &summary->frames[number];
        size_t first = frame->at, n = 1;
        if (first == frame->n) {
            frame_close(frame);
            summary->n_frames--;
            continue;
        }
        while (first + n < frame->n &&
               um_slice_equal(frame->versions[first].name, frame->versions[first + n].name))
            n++;
        frame->at += n;
        um_tree_count_use(summary->tree);
        int error = take_name(summary, number, first, n);
        return error ? error : (int64_t)n;
    }
    return 0;
}

/* Step to the next inode: 1, 0 at the end, or an errno. */
static int step_bytes(struct um_summary *summary)
{
    uint32_t number = summary->counted_inode, layer = summary->counted_layer;
    struct um_inode inode;
    uint64_t bytes = 0;
    while (layer < summary->tree->n_layers &&
           number == um_layer_span(&summary->tree->layers[layer])) {
        layer++;
        number = 0;
    }
    summary->counted_layer = layer;
    summary->counted_inode = number + 1;
    if (layer == summary->tree->n_layers)
        return 0;
    int error = um_layer_inode(&summary->tree->layers[layer], number, &inode);
    if (error == 0 && S_ISREG(inode.mode))
        error = um_layer_stored(&summary->tree->layers[layer], &inode, &bytes);
    if (error != 0)
        return error;
    summary->layers[layer].bytes += bytes;
    if (!(summary->shown[layer][number / 64] & 1ull << number % 64))
        summary->layers[layer].wasted += bytes;
    return 1;
}

int um_summary_step(struct um_summary *summary)
{
    int64_t did = 1;
    for (uint64_t done = 0; did > 0 && done < BUDGET; done += (uint64_t)did) {
        did = step_names(summary);
        if (did == 0)
            did = step_bytes(summary);
        if (did < 0)
            return (int)did;
    }
    return did != 0;
}

void um_summary_get(const struct um_summary *summary, struct um_layer_summary *layers,
                    struct um_path_summary *paths)
{
    const struct listing *listing = summary->listing;
    if (summary->tree->n_layers != 0)
        memcpy(layers, listing != NULL ? listing->layers : summary->layers,
               summary->tree->n_layers * sizeof *layers);
    *paths = listing != NULL ? listing->paths : summary->paths;
}

/* ---- the list of paths ---------------------------------------------------------------------------- */

static void listing_close(struct listing *listing)
{
    if (listing == NULL)
        return;
    free(listing->path);
    free(listing->found);
    free(listing->inodes);
    free(listing->layers);
    free(listing);
}

/* Start the second walk. What the first one counted is kept aside. */
static int start_listing(struct um_summary *summary)
{
    struct listing *listing = calloc(1, sizeof *listing);
    if (listing == NULL)
        return -ENOMEM;
    size_t n = (size_t)summary->tree->n_layers + 1;
    listing->layers = calloc(n, sizeof *listing->layers);
    if (listing->layers == NULL) {
        listing_close(listing);
        return -ENOMEM;
    }
    memcpy(listing->layers, summary->layers, n * sizeof *listing->layers);
    listing->paths = summary->paths;
    summary->listing = listing;
    return push_root(summary);
}

/* Sum up the versions of the present name. */
static void sum_versions(const struct um_summary *summary, struct um_path_versions *out)
{
    const struct listing *listing = summary->listing;
    *out = (struct um_path_versions){.path = listing->path,
                                     .path_size = listing->path_size,
                                     .versions = listing->found,
                                     .n = listing->n};
    for (size_t i = 0; i < listing->n; i++) {
        struct um_path_version *version = &listing->found[i];
        uint32_t inode = listing->inodes[i];
        const uint64_t *shown = summary->shown[version->layer];
        version->shown = inode == UM_INDEX_NONE || (shown[inode / 64] >> inode % 64 & 1);
        *(version->shown ? &out->shown : &out->wasted) += version->bytes;
    }
}

int um_summary_list(struct um_summary *summary, const struct um_path_floor *floor,
                    struct um_path_versions *out)
{
    if (summary->listing == NULL) {
        int error = start_listing(summary);
        if (error != 0)
            return error;
    }
    for (uint64_t done = 0; done < BUDGET;) {
        int64_t did = step_names(summary);
        if (did <= 0)
            return (int)did;
        done += (uint64_t)did;
        sum_versions(summary, out);
        bool repeated = out->n > 1 && out->shown + out->wasted >= floor->repeated;
        if (out->n != 0 && (out->shown >= floor->shown || out->wasted >= floor->wasted || repeated))
            return 1;
    }
    return 2;
}

static int make_tables(struct um_summary *summary)
{
    const struct um_tree *tree = summary->tree;
    summary->layers = calloc((size_t)tree->n_layers + 1, sizeof *summary->layers);
    summary->shown = calloc((size_t)tree->n_layers + 1, sizeof *summary->shown);
    if (summary->layers == NULL || summary->shown == NULL)
        return -ENOMEM;
    for (uint32_t layer = 0; layer < tree->n_layers; layer++) {
        summary->shown[layer] =
            calloc(um_layer_span(&tree->layers[layer]) / 64 + 1, sizeof **summary->shown);
        if (summary->shown[layer] == NULL)
            return -ENOMEM;
    }
    return 0;
}

int um_summary_open(struct um_tree *tree, struct um_summary **out)
{
    if (tree->n_live != 0)
        return -EOPNOTSUPP;
    struct um_summary *summary = calloc(1, sizeof *summary);
    if (summary == NULL)
        return -ENOMEM;
    summary->tree = tree;
    int error = make_tables(summary);
    if (error == 0)
        error = push_root(summary);
    if (error != 0) {
        um_summary_close(summary);
        return error;
    }
    *out = summary;
    return 0;
}

void um_summary_close(struct um_summary *summary)
{
    if (summary == NULL)
        return;
    while (summary->n_frames != 0)
        frame_close(&summary->frames[--summary->n_frames]);
    for (uint32_t layer = 0; summary->shown != NULL && layer < summary->tree->n_layers; layer++)
        free(summary->shown[layer]);
    listing_close(summary->listing);
    free(summary->shown);
    free(summary->layers);
    free(summary->frames);
    free(summary);
}
