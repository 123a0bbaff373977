#include "idistill/config/resources.hpp"

#include <sys/statvfs.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "idistill/report/error.hpp"
#include "text.hpp"

namespace idistill::config {
namespace {

constexpr double single = 4.0;                     // bytes of fp32
constexpr double twice = 8.0;                      // bytes of fp64, int64
constexpr double process_bytes = 200e6;            // a rank with LibTorch, MPI and HDF5 loaded (measured: 198 MB)
constexpr double logits_bytes = 2.0 * (64 << 20);  // a chunk of logits and its copy in the head's product
constexpr double eigen_matrices = 6.0;             // kernel, vectors, their squares, workspace of the solver
constexpr double eigen_flops = 9.0;                // times L^3, symmetric eigenvalues with vectors
constexpr double id_bytes = 32.0;

double real(std::int64_t value) { return static_cast<double>(value); }
double count(std::size_t value) { return static_cast<double>(value); }

double entries(const std::vector<LinearLayer>& layers) {
    double sum = 0.0;
    for (const auto& layer : layers) sum += real(layer.inputs) * real(layer.outputs);
    return sum;
}

double weights(const ModelConfig& model) {
    const double embeddings = real(model.vocabulary) * real(model.hidden) * (model.tied_embedding ? 1.0 : 2.0);
    double per_block = 2.0 * real(model.hidden);
    if (model.query_key_norm) per_block += 2.0 * real(model.head_dim);
    if (model.attention_bias) per_block += real((model.heads + 2 * model.kv_heads) * model.head_dim);
    if (model.attention_output_bias) per_block += real(model.hidden);
    if (model.mlp_bias) per_block += real(2 * model.intermediate + model.hidden);
    return entries(linear_layers(model)) + embeddings + real(model.blocks) * per_block + real(model.hidden);
}

/// Numbers per token of one block's states: residuals, norms, q, k, v, attention, gate, up and their product.
double block_states(const ModelConfig& model) {
    return 4.0 * real(model.hidden) + real((2 * model.heads + 2 * model.kv_heads) * model.head_dim) +
           3.0 * real(model.intermediate);
}

/// Gradient pass: what every block from the lowest chosen one keeps, and the working states of one block forward and
/// backward.
double gradient_activations(const ModelConfig& model, std::int64_t lowest, double tokens) {
    const double qkv = real((model.heads + 2 * model.kv_heads) * model.head_dim);
    const double kept = 2.0 * real(model.hidden) + qkv * (model.query_key_norm ? 2.0 : 1.0) +
                        real(model.heads * model.head_dim) + 2.0 * real(model.intermediate);
    return tokens * single * (kept * real(model.blocks - lowest) + 2.0 * block_states(model)) + logits_bytes;
}

/// Embedding pass: states of one block for the primal and its tangents, and the directions.
double embedding_activations(const Settings& settings, const ModelConfig& model, double tokens) {
    const bool hidden = settings.embedding == "hidden";
    const double tangents = hidden ? 0.0 : real(settings.jvp_tangents);
    double directions = 0.0;
    for (const auto& layer : linear_layers(model)) {
        if (layer.block >= settings.jvp_blocks) break;
        const double dense = real(layer.inputs) * real(layer.outputs);
        directions += settings.jvp_rank == 0 ? dense : real(settings.jvp_rank) * real(layer.inputs + layer.outputs);
    }
    return single * ((1.0 + tangents) * 2.0 * tokens * block_states(model) + tangents * directions);
}

double largest_unit_rows(const std::vector<data::WorkUnit>& units) {
    std::int64_t rows = 0;
    for (const auto& unit : units) rows = std::max(rows, unit.rows.count);
    return real(rows);
}

double total_flops(const std::vector<data::WorkUnit>& units) {
    double sum = 0.0;
    for (const auto& unit : units) sum += unit.flops;
    return sum;
}

double sketch_bytes(const Settings& settings, const Plan& plan, const std::vector<LinearLayer>& chosen) {
    if (contracts_with_tasks(settings)) return single * 2.0 * real(plan.tasks) * entries(chosen);
    const double unit = std::max(largest_unit_rows(plan.landmark_units),
                                 std::max(largest_unit_rows(plan.target_units),
                                          plan.landmarks.empty() ? largest_unit_rows(plan.pool_units) : 0.0));
    double projections = 0.0;
    for (const auto& layer : chosen) projections += real(plan.sketch.side) * real(layer.inputs + layer.outputs);
    return single * (real(plan.sketch.width) * (count(plan.target_rows.size()) + unit) + projections);
}

/// Longest existing directory above `path`: where a file system can be asked.
std::string existing_directory(const std::string& path) {
    namespace fs = std::filesystem;
    std::error_code error;
    fs::path directory = fs::absolute(path, error).parent_path();
    while (!directory.empty() && directory != directory.root_path() && !fs::is_directory(directory, error))
        directory = directory.parent_path();
    return directory.string();
}

std::optional<double> free_bytes(const std::string& path) {
    struct statvfs facts {};
    if (::statvfs(path.c_str(), &facts) != 0) return std::nullopt;
    return static_cast<double>(facts.f_bavail) * static_cast<double>(facts.f_frsize);
}

std::optional<double> available_memory() {
    std::ifstream file("/proc/meminfo");
    std::string key;
    double kilobytes = 0.0;
    std::string unit;
    while (file >> key >> kilobytes) {
        if (key == "MemAvailable:") return kilobytes * 1024.0;
        std::getline(file, unit);
    }
    return std::nullopt;
}

/// The share of a rank's memory that a setting decides, largest first: what to turn down.
std::string memory_remedy(const Settings& settings, const Resources& resources) {
    std::string largest = "smaller --batch-tokens";
    double most = resources.layout.per_node * resources.activation_bytes_per_rank;
    const auto consider = [&](double bytes, const std::string& change) {
        if (bytes <= most) return;
        most = bytes;
        largest = change;
    };
    const bool contracts = contracts_with_tasks(settings);
    consider(resources.layout.per_node * resources.sketch_bytes_per_rank,
             contracts ? "fewer layers in --parameters" : "a smaller --sketch-dim");
    consider(resources.layout.per_node * resources.landmark_bytes_per_rank + resources.solve_bytes_on_rank_0,
             "fewer --landmarks");
    const std::string fewer = resources.layout.per_node > 1 ? "Start fewer ranks on a node, or use " : "Use ";
    return fewer + largest + ".";
}

}  // namespace

Resources estimate(const Settings& settings, const ModelConfig& model, const Plan& plan, RankLayout layout) {
    const auto chosen = chosen_layers(model, settings.parameters);
    const double landmarks = count(plan.landmarks.size());
    const double targets = count(plan.target_rows.size());
    const double columns = real(plan.columns);
    const double rows = real(plan.pool_rows);
    const double tokens = real(std::max(settings.batch_tokens, plan.longest));
    const double units = count(plan.target_units.size() + plan.landmark_units.size() + plan.pool_units.size());

    Resources need;
    need.layout = layout;
    need.weight_bytes_per_node = single * weights(model);
    need.process_bytes_per_rank = process_bytes;
    // offsets, four int32 of the index, eligible, planned cost while units are cut
    need.index_bytes_per_rank = rows * (8.0 + 16.0 + 1.0 + 8.0) + units * count(sizeof(data::WorkUnit));
    need.activation_bytes_per_rank = gradient_activations(model, chosen.front().block, tokens);
    if (landmarks > 0) {
        need.activation_bytes_per_rank =
            std::max(need.activation_bytes_per_rank, embedding_activations(settings, model, tokens));
        const double labels = columns + 1.0;  // and the norm
        need.landmark_bytes_per_rank = landmarks * (single * (real(plan.embedding_width) + labels) + twice * labels);
        need.solve_bytes_on_rank_0 = landmarks * twice * (eigen_matrices * landmarks + 4.0 * labels);
        need.solve_flops = eigen_flops * landmarks * landmarks * landmarks;
    }
    need.sketch_bytes_per_rank = sketch_bytes(settings, plan, chosen);
    const double marks = units * (twice + 1.0);
    need.state_file_bytes =
        marks + single * (targets * (real(plan.sketch.width) + 1.0) +
                          landmarks * (targets + 1.0 + real(plan.embedding_width)) + rows * (columns + 1.0));
    // weight, norm, exact, influence, scores, id; landmarks twice (labels and leave-one-out)
    need.result_file_bytes = rows * (single * (2.0 + columns + real(plan.tasks)) + 1.0 + id_bytes) +
                             landmarks * (twice + 2.0 * single * columns);
    need.target_flops = total_flops(plan.target_units);
    need.landmark_flops = total_flops(plan.landmark_units);
    need.pool_flops = total_flops(plan.pool_units);
    return need;
}

MachineFacts read_machine_facts(const std::string& out) {
    return {available_memory(), free_bytes("/dev/shm"), free_bytes(existing_directory(out))};
}

std::vector<Shortfall> shortfalls(const Settings& settings, const Resources& resources, const MachineFacts& facts) {
    std::vector<Shortfall> found;
    const auto compare = [&found](const std::string& what, double needed, const std::optional<double>& available,
                                  const std::string& remedy) {
        if (available && needed > *available) found.push_back({what, needed, *available, remedy});
    };
    compare("memory of a node", resources.bytes_per_node(), facts.free_memory_bytes,
            memory_remedy(settings, resources));
    if (resources.layout.per_node > 1) {  // a rank that has a node to itself needs no shared memory
        compare("/dev/shm", resources.weight_bytes_per_node, facts.free_shared_memory_bytes,
                "Make /dev/shm larger (in a container: --shm-size), as the ranks of a node share one copy of the "
                "weights there, or run one rank a node.");
    }
    const std::string smaller = settings.columns == "tasks" ? "." : ", or use --columns tasks.";
    compare("disk", resources.disk_bytes(), facts.free_disk_bytes, "Give --out a place on a larger disk" + smaller);
    return found;
}

void check_fits(const Settings& settings, const Resources& resources, const MachineFacts& facts) {
    for (const auto& shortfall : shortfalls(settings, resources, facts)) {
        throw Error(ExitCode::too_large, {"plan", shortfall.what, "at least " + shown_bytes(shortfall.needed) + " free",
                                          shown_bytes(shortfall.available), shortfall.remedy});
    }
}

}  // namespace idistill::config
