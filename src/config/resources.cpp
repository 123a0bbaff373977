#include "idistill/config/resources.hpp"

#include <algorithm>

#include "idistill/report/error.hpp"
#include "text.hpp"

namespace idistill::config {
namespace {

constexpr double single = 4.0;                     // bytes of fp32
constexpr double twice = 8.0;                      // bytes of fp64, int64
constexpr double process_bytes = 200e6;            // a rank with LibTorch, MPI and HDF5 loaded (measured: 198 MB)
constexpr double logits_bytes = 2.0 * (64 << 20);  // a chunk of logits and its copy in the head's product
constexpr double curvature_vectors = 3.0;          // a product, a unit's part, another rank's
constexpr double step_matrices = 10.0;             // two moments, weight and what is made of them, fp64
constexpr double eigen_matrices = 6.0;             // kernel, vectors, their squares, workspace of the solver
constexpr double bandwidth_matrices = 4.0;         // distances, other kernels, vectors and squares of the best so far
constexpr double bandwidths = 5.0;                 // that --bandwidth auto compares
constexpr double unit_record_bytes = 9.0;          // checksum and mark of a unit in the state
constexpr double solve_labels = 7.0;               // labels, solved and rotated, coefficients and predictions, fp64
constexpr double eigen_flops = 9.0;                // times L^3, symmetric eigenvalues with vectors

double real(std::int64_t value) { return static_cast<double>(value); }
double count(std::size_t value) { return static_cast<double>(value); }

double entries(const LinearLayer& layer) { return real(layer.inputs) * real(layer.outputs); }

double entries(const std::vector<LinearLayer>& layers) {
    double sum = 0.0;
    for (const auto& layer : layers) sum += entries(layer);
    return sum;
}

/// The most that `numbers` says of one of the layers.
template <class Numbers>
double largest(const std::vector<LinearLayer>& layers, Numbers numbers) {
    double most = 0.0;
    for (const auto& layer : layers) most = std::max(most, numbers(layer));
    return most;
}

double largest_entries(const std::vector<LinearLayer>& layers) {
    return largest(layers, [](const LinearLayer& layer) { return entries(layer); });
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

/// Embedding pass: states of one block for the primal and its tangents, or what a gradient pass keeps.
double embedding_activations(const Settings& settings, const ModelConfig& model, const EmbeddingShape& shape,
                             double tokens) {
    if (shape.part.kind == EmbeddingKind::file) return 0.0;
    if (!shape.layers.empty()) return gradient_activations(model, shape.layers.front().block, tokens);
    const double tangents = shape.part.kind == EmbeddingKind::jvp ? real(settings.jvp_tangents) : 0.0;
    return single * (1.0 + tangents) * 2.0 * tokens * block_states(model);
}

/// Random directions of all matrices (those of norms and biases are vectors), or what makes the sketch, and the
/// projection.
double embedding_bytes(const Settings& settings, const ModelConfig& model, const EmbeddingShape& shape) {
    double numbers = shape.whole > shape.states ? real(shape.whole) * real(shape.states) : 0.0;
    for (const auto& layer : shape.layers) numbers += real(shape.sketch.side) * real(layer.inputs + layer.outputs);
    if (shape.part.kind != EmbeddingKind::jvp) return single * numbers;
    const double rank = real(settings.jvp_rank);
    const auto direction = [rank](std::int64_t a, std::int64_t b) {
        return rank == 0.0 ? real(a) * real(b) : rank * real(a + b);
    };
    double directions = direction(model.vocabulary, model.hidden);
    for (const auto& layer : linear_layers(model)) {
        if (layer.block < settings.jvp_blocks) directions += direction(layer.inputs, layer.outputs);
    }
    return single * (numbers + real(settings.jvp_tangents) * directions);
}

/// Of a micro-batch: a sample is not divided.
double most_tokens(const Settings& settings, const Plan& plan) {
    return real(std::max(settings.batch_tokens, plan.longest));
}

double largest_unit_rows(const std::vector<data::WorkUnit>& units) {
    std::int64_t rows = 0;
    for (const auto& unit : units) rows = std::max(rows, unit.rows.count);
    return real(rows);
}

double total_rows(const std::vector<data::WorkUnit>& units) {
    double sum = 0.0;
    for (const auto& unit : units) sum += real(unit.rows.count);
    return sum;
}

double total_flops(const std::vector<data::WorkUnit>& units) {
    double sum = 0.0;
    for (const auto& unit : units) sum += unit.flops;
    return sum;
}

/// What the norm of one sample's gradient takes: the gradient, or products of all pairs of rows where they are cheaper.
double norm_numbers(const LinearLayer& layer, double rows) {
    return rows * real(layer.inputs + layer.outputs) < entries(layer) ? 2.0 * rows * rows : entries(layer);
}

/// What makes sketches, and norms. `micro_batch`: most samples of one.
double sketching_numbers(const Settings& settings, const Plan& plan, const std::vector<LinearLayer>& chosen,
                         double micro_batch) {
    const double whole = settings.optimizer.empty() ? 0.0 : largest_entries(chosen);  // one gradient times its factors
    if (settings.sketch == "rademacher") {
        const double dense = largest_entries(chosen);
        const auto block = [dense](double rows, std::int64_t most) {
            return std::min(rows * dense, std::max(real(most) / single, dense));
        };
        return block(micro_batch, rademacher_gradient_bytes) + block(real(plan.sketch.width), rademacher_sign_bytes);
    }
    if (settings.sketch == "hadamard") {
        // Signs of all layers; the transform, and when its entries are drawn as many bytes for their keys.
        return entries(chosen) + whole +
               4.0 * largest(chosen, [](const LinearLayer& layer) { return real(padded_entries(layer)); });
    }
    double projections = 0.0;
    for (const auto& layer : chosen) projections += real(plan.sketch.side) * real(layer.inputs + layer.outputs);
    const double norm =
        largest(chosen, [&plan](const LinearLayer& layer) { return norm_numbers(layer, real(plan.longest)); });
    return projections + std::max(norm, whole);
}

/// Numbers of a direction in the state: its parameters in pieces, the last one filled up.
double direction_numbers(const Plan& plan) {
    const std::int64_t width = std::min(plan.direction_parameters, direction_piece);
    return width == 0 ? 0.0 : real((plan.direction_parameters + width - 1) / width * width);
}

double sketch_bytes(const Settings& settings, const Plan& plan, const std::vector<LinearLayer>& chosen) {
    if (contracts_with_tasks(settings)) {  // directions, a piece on its way from the state, one sample's gradient
        const std::int64_t directions = plan.tasks + plan.curvature_columns + (plan.contrast_rows.empty() ? 0 : 1);
        return single * (real(directions) * direction_numbers(plan) +
                         real(std::min(plan.direction_parameters, direction_piece)) + largest_entries(chosen));
    }
    const double unit = std::max({largest_unit_rows(plan.landmark_units), largest_unit_rows(plan.target_units),
                                  largest_unit_rows(plan.refine_units),
                                  plan.landmarks.empty() ? largest_unit_rows(plan.pool_units) : 0.0});
    const double micro_batch = std::min(unit, real(settings.batch_tokens));  // samples of one token at worst
    const double kept = count(plan.target_rows.size()) + real(plan.curvature_columns);
    const double targets = 4.0 * kept;                  // as gathered; in fp64, then in fp32
    const double means = 2.0 * real(plan.tasks) + 3.0;  // fp64, of the tasks and of --contrast, and a row of the latter
    const double step = real(plan.step_products) * step_matrices * largest_entries(chosen);
    return single * (real(plan.sketch.width) * (targets + means + unit + micro_batch) + step +
                     sketching_numbers(settings, plan, chosen, micro_batch));
}

/// Of every rank: embeddings as gathered, in the solution and in the propagator; for every label the influence,
/// leave-one-out and the propagator's coefficients, and in fp64 the coefficients and one copy on their way.
double landmark_bytes(const Plan& plan, double labels) {
    return count(plan.landmarks.size()) *
           (3.0 * single * real(plan.embedding_width) + (3.0 * single + 2.0 * twice) * labels);
}

/// At most: with --embedding auto some candidates have one embedding.
double kernels_compared(const Settings& settings, const Plan& plan) {
    const bool both = settings.kernel == "auto" && plan.embedding_widths.size() > 1;
    return (settings.bandwidth_auto ? bandwidths : 1.0) * (both ? 2.0 : 1.0);
}

double solve_bytes(const Settings& settings, const Plan& plan, double labels) {
    const double landmarks = count(plan.landmarks.size());
    // The embeddings' distances are held side by side until their kernels are added.
    const bool compares = kernels_compared(settings, plan) > 1.0;
    const double matrices =
        eigen_matrices + (compares ? bandwidth_matrices : 0.0) + count(plan.embedding_widths.size()) - 1.0;
    return landmarks * twice * (matrices * landmarks + real(plan.embedding_width) + solve_labels * labels);
}

/// Rows of targets, contrast, landmarks, pool, those to refine and directions (in pieces), and checksum and mark of
/// every unit.
double state_bytes(const Plan& plan, double units) {
    const double columns = real(plan.stored_columns());
    const double numbers =
        real(plan.labelled()) * (real(plan.sketch.width + plan.step_products) + 1.0) +
        count(plan.landmarks.size()) * (columns + 1.0 + real(plan.embedding_width)) +
        (real(plan.pool_rows) + total_rows(plan.refine_units)) * (columns + 1.0) +
        (count(plan.direction_units.size()) + real(plan.curvature_columns)) * direction_numbers(plan);
    return single * numbers + units * unit_record_bytes;
}

/// Weight, norm, tokens, source, influence, scores, exact, id; landmarks with labels and leave-one-out.
double result_bytes(const Plan& plan) {
    const double columns = real(plan.columns);
    return real(plan.pool_rows) *
               (single * (4.0 + real(plan.stored_columns() + plan.tasks)) + 1.0 + real(plan.longest_id)) +
           count(plan.landmarks.size()) * (twice + 2.0 * single * columns);
}

/// Row numbers, mean influence and score of a rank's rows (whole blocks of 1/1024 of the pool, selection/weighted.hpp),
/// at second order all their influences, or the factor of the Hessian, what the constant part of an optimizer's step
/// takes off the mean, and all but this again for the rows that --select keeps, at worst all of them on this rank.
double selection_bytes(const Settings& settings, const Plan& plan, bool with_optimizer, const RankLayout& layout) {
    if (settings.selection != "weighted") return 0.0;
    const double pool = real(plan.pool_rows);
    const double rows = std::min(pool, pool / layout.ranks + std::max(1024.0, pool / 1024.0));
    const double factor = real(plan.curvature_columns > 0 ? plan.curvature_columns : plan.columns);
    if (settings.influence != "second-order") return rows * 3.0 * twice;
    const double offset = with_optimizer && settings.learning_rate ? 2.0 * twice : 0.0;
    const double kept = settings.select_percent ? real(selected_count(*settings.select_percent, plan.pool_rows))
                                                : real(settings.select_samples.value_or(0));
    return (rows + std::min(rows, kept)) * (3.0 * twice + single * factor) + rows * offset;
}

/// What to turn down: the setting that decides the largest share of a node's memory.
std::string memory_remedy(const Settings& settings, const Resources& resources) {
    const double ranks = resources.layout.per_node;
    std::string change = "smaller --batch-tokens";
    double most = ranks * resources.activation_bytes_per_rank;
    const auto consider = [&](double bytes, const std::string& other) {
        if (bytes <= most) return;
        most = bytes;
        change = other;
    };
    const bool dense = embeds(settings, EmbeddingKind::jvp) && settings.jvp_rank == 0;
    consider(ranks * resources.sketch_bytes_per_rank, contracts_with_tasks(settings) ? "fewer layers in --parameters"
                                                      : settings.sketch == "none"    ? "--sketch kronecker"
                                                                                     : "a smaller --sketch-dim");
    consider(ranks * resources.curvature_bytes_per_rank, "a smaller --rank");
    consider(ranks * resources.embedding_bytes_per_rank, dense ? "--jvp-rank 8" : "a smaller --embedding-dim");
    consider(ranks * resources.landmark_bytes_per_rank + resources.solve_bytes_on_rank_0, "fewer --landmarks");
    consider(ranks * resources.selection_bytes_per_rank, "--influence first-order");
    const std::string fewer = resources.layout.per_node > 1 ? "Start fewer ranks on a node, or use " : "Use ";
    return fewer + change + ".";
}

/// Of `embed`.
Resources estimate_embedding(const Settings& settings, const ModelConfig& model, const Plan& plan, Resources need) {
    const auto shape = embedding_shapes(settings, model).front();
    const double width = real(plan.embedding_width);
    const double unit = largest_unit_rows(plan.pool_units);
    need.activation_bytes_per_rank = embedding_activations(settings, model, shape, most_tokens(settings, plan));
    // Beside what makes it, a unit's rows as computed and on their way to the state.
    need.embedding_bytes_per_rank = embedding_bytes(settings, model, shape) + 2.0 * single * unit * width;
    need.state_file_bytes = single * real(plan.pool_rows) * width + count(plan.pool_units.size()) * unit_record_bytes;
    need.result_file_bytes = real(plan.pool_rows) * (single * width + real(plan.longest_id));
    need.pool_flops = total_flops(plan.pool_units);
    return need;
}

}  // namespace

Resources estimate(const Settings& settings, const ModelConfig& model, const Plan& plan, RankLayout layout) {
    const auto chosen = chosen_layers(model, settings.parameters);
    const double landmarks = count(plan.landmarks.size());
    const double tokens = most_tokens(settings, plan);
    const double units = count(plan.target_units.size() + plan.direction_units.size() + plan.landmark_units.size() +
                               plan.pool_units.size() + plan.refine_units.size());

    Resources need;
    need.layout = layout;
    need.weight_bytes_per_node = single * weights(model);
    need.process_bytes_per_rank = process_bytes;
    // offsets, four int32 of the index, eligible, planned cost while units are cut
    need.index_bytes_per_rank = real(plan.pool_rows) * (8.0 + 16.0 + 1.0 + 8.0) + units * count(sizeof(data::WorkUnit));
    if (settings.command == Command::embed) return estimate_embedding(settings, model, plan, need);
    if (!settings.optimizer.empty()) need.optimizer_bytes_per_node = single * entries(chosen);
    need.activation_bytes_per_rank = gradient_activations(model, chosen.front().block, tokens);
    if (landmarks > 0) {
        const double labels = real(plan.stored_columns()) + 1.0;  // and the norm
        for (const auto& shape : embedding_shapes(settings, model)) {
            if (shape.part.kind == EmbeddingKind::file)  // its row of every sample
                need.index_bytes_per_rank += twice * real(plan.pool_rows);
            need.activation_bytes_per_rank =
                std::max(need.activation_bytes_per_rank, embedding_activations(settings, model, shape, tokens));
            need.embedding_bytes_per_rank += embedding_bytes(settings, model, shape);
        }
        need.landmark_bytes_per_rank = landmark_bytes(plan, labels);
        need.solve_bytes_on_rank_0 = solve_bytes(settings, plan, labels);
        need.solve_flops = eigen_flops * kernels_compared(settings, plan) *
                           count(embedding_candidates(settings).size()) * landmarks * landmarks * landmarks;
    }
    if (plan.curvature_columns > 0) {  // the gradient pass on dual numbers
        need.activation_bytes_per_rank =
            std::max(need.activation_bytes_per_rank, 2.0 * gradient_activations(model, chosen.front().block, tokens));
        need.curvature_bytes_per_rank =
            single * (real(plan.curvature_columns) + curvature_vectors) * direction_numbers(plan);
    }
    need.sketch_bytes_per_rank = sketch_bytes(settings, plan, chosen);
    need.selection_bytes_per_rank = selection_bytes(settings, plan, !settings.optimizer.empty(), layout);
    need.state_file_bytes = state_bytes(plan, units);
    need.result_file_bytes = result_bytes(plan);
    need.target_flops = total_flops(plan.target_units);
    need.direction_flops = total_flops(plan.direction_units);
    need.curvature_flops = real(plan.curvature_columns) * total_flops(plan.curvature_units);
    need.landmark_flops = total_flops(plan.landmark_units);
    need.pool_flops = total_flops(plan.pool_units);
    need.refine_flops = total_flops(plan.refine_units);
    return need;
}

Resources estimate_selection(const Settings& settings, const ResultShape& result, RankLayout layout) {
    Plan plan;
    plan.pool_rows = result.rows;
    plan.columns = result.columns;
    plan.curvature_columns = result.curvature_columns;
    Resources need;
    need.layout = layout;
    need.process_bytes_per_rank = process_bytes;
    need.index_bytes_per_rank = real(result.rows) * (2.0 * single + 1.0);  // tokens, sources, eligible
    need.selection_bytes_per_rank = selection_bytes(settings, plan, result.with_optimizer, layout);
    need.result_file_bytes = result.bytes;
    return need;
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
        compare("/dev/shm", resources.shared_bytes_per_node(), facts.free_shared_memory_bytes,
                "Make /dev/shm larger (in a container: --shm-size), as the ranks of a node share one copy of the "
                "weights there, or run one rank a node.");
    }
    const std::string smaller = settings.command == Command::embed ? ", or use a smaller --embedding-dim."
                                : settings.columns == "tasks"      ? "."
                                                                   : ", or use --columns tasks.";
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
