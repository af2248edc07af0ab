// Graphs of the stand-in: nodes in the order in which they were added, which has to be a chain.
#pragma once

struct KernelParameters {  // CUDA_KERNEL_NODE_PARAMS_v2
    const char* function;
    unsigned grid[3], block[3], shared;
    void **arguments, **extra;
    void *kernel, *context;
};
struct CopyParameters {  // CUDA_MEMCPY3D
    size_t from_x, from_y, from_z, from_level;
    int from_type;
    const void* from_host;
    uint64_t from;
    void *from_array, *reserved;
    size_t from_pitch, from_height;
    size_t to_x, to_y, to_z, to_level;
    int to_type;
    void* to_host;
    uint64_t to;
    void *to_array, *reserved_too;
    size_t to_pitch, to_height;
    size_t bytes, height, depth;
};
struct SetParameters {  // CUDA_MEMSET_NODE_PARAMS
    uint64_t at;
    size_t pitch;
    unsigned value, element;
    size_t width, height;
};
enum { DEVICE_MEMORY = 2 };

struct Node {
    enum { KERNEL, COPY, SET } kind;
    KernelParameters kernel;
    std::vector<std::vector<char>> arguments;
    CopyParameters copy;
    SetParameters set;
};
struct Graph {
    std::vector<Node*> nodes;
    ~Graph() {
        for (Node* node : nodes) delete node;
    }
};

// Keeps a kernel's arguments as they are now.
static int keep(Node& node, const KernelParameters* kernel) {
    node.kind = Node::KERNEL;
    node.kernel = *kernel;
    node.arguments.clear();
    return with_kernel(kernel->function, NOT_FOUND, [&](auto function) {
        void** argument = kernel->arguments;
        for (size_t size : shim::sizes(function)) {
            node.arguments.emplace_back((char*)*argument, (char*)*argument + size);
            argument++;
        }
        return (int)OK;
    });
}
static int append(void** made, Graph* graph, void* const* before, size_t count, Node node) {
    bool chain = graph->nodes.empty() ? count == 0 : count == 1 && *before == graph->nodes.back();
    if (!chain || wrong() == "graphs") return INVALID;
    graph->nodes.push_back(new Node(std::move(node)));
    return *made = graph->nodes.back(), OK;
}

int cuGraphCreate(void** graph, unsigned) { return *graph = new Graph, OK; }
int cuGraphDestroy(Graph* graph) { return delete graph, OK; }
int cuGraphAddKernelNode_v2(void** made, Graph* graph, void* const* before, size_t count, const KernelParameters* kernel) {
    Node node = {};
    int code = keep(node, kernel);
    return code ? code : append(made, graph, before, count, std::move(node));
}
int cuGraphAddMemcpyNode(void** made, Graph* graph, void* const* before, size_t count, const CopyParameters* copy, void* context) {
    bool flat = copy->from_type == DEVICE_MEMORY && copy->to_type == DEVICE_MEMORY && copy->height == 1 && copy->depth == 1;
    if (!flat || context != &pieces) return INVALID;
    Node node = {};
    node.kind = Node::COPY;
    node.copy = *copy;
    return append(made, graph, before, count, std::move(node));
}
int cuGraphAddMemsetNode(void** made, Graph* graph, void* const* before, size_t count, const SetParameters* set, void* context) {
    if (set->element != 1 || set->height != 1 || context != &pieces) return INVALID;
    Node node = {};
    node.kind = Node::SET;
    node.set = *set;
    return append(made, graph, before, count, std::move(node));
}
// What is launched: copies of the nodes, found by the graph's own.
struct Ready {
    std::map<void*, size_t> places;
    std::vector<Node> nodes;
};
int cuGraphInstantiateWithFlags(Ready** ready, Graph* graph, unsigned long long) {
    *ready = new Ready;
    for (Node* node : graph->nodes) {
        (*ready)->places[node] = (*ready)->nodes.size();
        (*ready)->nodes.push_back(*node);
    }
    return counts.made++, state();
}
int cuGraphExecDestroy(Ready* ready) { return delete ready, OK; }
int cuGraphExecKernelNodeSetParams_v2(Ready* ready, void* node, const KernelParameters* kernel) {
    auto place = ready->places.find(node);
    return place == ready->places.end() ? INVALID : keep(ready->nodes[place->second], kernel);
}
int cuStreamSynchronize(void*) { return state(); }
// As with the driver, what goes wrong while a graph runs is said by what comes after it.
int cuGraphLaunch(Ready* ready, void*) {
    if (state()) return state();
    counts.graphs++;
    for (Node& node : ready->nodes) {
        if (node.kind == Node::KERNEL) {
            std::vector<void*> arguments;
            for (auto& argument : node.arguments) arguments.push_back(argument.data());
            std::lock_guard<std::mutex> guard(one);
            if (run(node.kernel.function, node.kernel.grid, node.kernel.block[0], arguments.data())) lost = true;
        } else if (node.kind == Node::COPY) {
            if (cuMemcpyDtoDAsync_v2(node.copy.to, node.copy.from, node.copy.bytes, nullptr)) lost = true;
        } else if (cuMemsetD8Async(node.set.at, (unsigned char)node.set.value, node.set.width, nullptr)) {
            lost = true;
        }
    }
    return OK;
}
