// What the gradient influence plans: stages of targets, directions and curvature, and what they need.

#include "plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "idistill/base/seeded_permutation.hpp"

namespace idistill::influence {
namespace {

using model::fp32_bytes;
using model::LinearLayer;
using model::Planner;

constexpr double twice = 8.0;              // bytes of fp64
constexpr double curvature_vectors = 3.0;  // a product, a unit's part, slices of others'
constexpr double step_matrices = 10.0;     // two moments, weight and what is made of them, fp64

constexpr double direction_units_per_task = 8.0;
constexpr double curvature_units = 64.0;

/// The state keeps a row of all chosen parameters in pieces of at most this many numbers.
constexpr std::int64_t direction_piece = std::int64_t{1} << 20;

double real(std::int64_t value) { return static_cast<double>(value); }

/// Places at which a task begins, and their number.
std::vector<std::int64_t> task_borders(const GradientPlan& plan) {
    std::vector<std::int64_t> borders{0};
    for (std::int64_t place = 1; place < plan.places(); ++place)
        if (plan.task_of(place) != plan.task_of(place - 1)) borders.push_back(place);
    borders.push_back(plan.places());
    return borders;
}

/// "label targets", "label targets, checkpoint 2".
std::string title_of(const GradientPlan& plan, const char* title) {
    return plan.suffix.empty() ? title : fmt::format("{}, checkpoint{}", title, plan.suffix);
}

/// Calls of(index, row) with what stands at a place.
template <class Of>
auto at_place(const GradientPlan& plan, const Planner& planner, std::int64_t place, Of of) {
    const auto i = static_cast<std::size_t>(place);
    const auto kept = plan.target_rows.size();
    return i < kept ? of(planner.targets, plan.target_rows[i]) : of(planner.pool, plan.contrast_rows[i - kept]);
}

plan::Length place_length(const GradientPlan& plan, const Planner& planner, std::int64_t place) {
    return at_place(plan, planner, place, model::used_length);
}

/// Planned FLOPs of the places [first, end): `of` their lengths and kind.
template <class Cost>
std::vector<double> place_flops(const GradientPlan& plan, const Planner& planner, std::int64_t first, std::int64_t end,
                                Cost of) {
    std::vector<double> flops;
    for (auto place = first; place < end; ++place) {
        const auto [tokens, labels] = place_length(plan, planner, place);
        flops.push_back(of(tokens, labels, place < plan.targets() ? GradientKind::plain : plan.kind));
    }
    return flops;
}

std::vector<data::WorkUnit> with_place_tokens(const GradientPlan& plan, const Planner& planner,
                                              std::vector<data::WorkUnit> units) {
    return plan::with_tokens(std::move(units), [&](std::int64_t place) {
        return at_place(plan, planner, place, [](const data::CorpusIndex& index, std::int64_t row) {
            return index.tokens[static_cast<std::size_t>(row)];
        });
    });
}

plan::Stage target_stage(const GradientPlan& plan, const Planner& planner, const GradientCost& cost) {
    const auto flops =
        place_flops(plan, planner, 0, plan.places(), [&](std::int64_t tokens, std::int64_t labels, GradientKind kind) {
            return plan.contracts ? cost.contraction(tokens, labels, 0, kind) : cost.gradient(tokens, labels, kind);
        });
    return {.name = plan.stage(gradient_state::targets),
            .title = title_of(plan, "label targets"),
            .columns = {{gradient_state::norm, 1},
                        {gradient_state::sketch, plan.sketch.width},
                        {gradient_state::step, plan.step_products}},
            .units = with_place_tokens(
                plan, planner, data::cut_units(flops, planner.run.unit_flops, plan::unit_rows, task_borders(plan)))};
}

/// Units over the places of a task each, cut at an eighth of it, so fewer than 16 a task: each leaves one row of all
/// chosen parameters in the state.
plan::Stage direction_stage(const GradientPlan& plan, const Planner& planner, const GradientCost& cost) {
    plan::Stage stage{.name = plan.stage(gradient_state::directions),
                      .title = title_of(plan, "task gradients"),
                      .columns = {{gradient_state::sum, plan.piece_width}},
                      .units = {},
                      .keeps = plan::Keeps::units,
                      .kept_rows = plan.pieces};
    const auto borders = task_borders(plan);
    for (std::size_t task = 0; task + 1 < borders.size(); ++task) {
        const auto flops = place_flops(
            plan, planner, borders[task], borders[task + 1],
            [&](std::int64_t tokens, std::int64_t labels, GradientKind) { return cost.gradient_sum(tokens, labels); });
        const double share = std::accumulate(flops.begin(), flops.end(), 0.0) / direction_units_per_task;
        for (auto unit : data::cut_units(flops, std::max(planner.run.unit_flops, share), std::ssize(flops))) {
            unit.rows.first += borders[task];
            stage.units.push_back(unit);
        }
    }
    stage.units = with_place_tokens(plan, planner, std::move(stage.units));
    return stage;
}

/// One pass over the targets for every direction; cut at a 64th of a pass, so fewer than 128 units.
plan::Stage curvature_stage(const GradientPlan& plan, const Planner& planner, const GradientCost& cost) {
    const auto flops = place_flops(
        plan, planner, 0, plan.targets(),
        [&](std::int64_t tokens, std::int64_t labels, GradientKind) { return cost.hessian_product(tokens, labels); });
    const double share = std::accumulate(flops.begin(), flops.end(), 0.0) / curvature_units;
    return {.name = plan.stage(gradient_state::curvature),
            .title = "curvature",
            .columns = {{gradient_state::product, plan.piece_width}},
            .units = with_place_tokens(
                plan, planner, data::cut_units(flops, std::max(planner.run.unit_flops, share), std::ssize(flops))),
            .keeps = plan::Keeps::repeats,
            .kept_rows = plan.pieces,
            .repeats = plan.curvature_columns};
}

/// Numbers of squared norms that a layer's gradient takes: the gradient, or products of all pairs of rows where they
/// are cheaper.
double norm_numbers(const LinearLayer& layer, double rows) {
    return rows * real(layer.inputs + layer.outputs) < model::entries(layer) ? 2.0 * rows * rows
                                                                             : model::entries(layer);
}

/// What makes sketches, all the time: projections, buckets (twice as long) and signs, or signs of all entries.
double map_numbers(const GradientSettings& settings, const GradientPlan& plan) {
    if (settings.sketch == SketchKind::hadamard) return model::entries(plan.layers);
    const double each = settings.sketch == SketchKind::tensor ? tensor_map_numbers : real(plan.sketch.side);
    double numbers = 0.0;
    for (const auto& layer : plan.layers) numbers += each * real(layer.inputs + layer.outputs);
    return numbers;
}

/// What a pass makes sketches and norms in.
double sketching_numbers(const GradientSettings& settings, const GradientPlan& plan, const plan::Batch& batch) {
    const double dense = model::largest_entries(plan.layers);
    if (plan.contracts) return dense;                          // one sample's gradient
    const double whole = plan.preconditioned() ? dense : 0.0;  // one gradient times its factors
    if (settings.sketch == SketchKind::rademacher) {
        const auto block = [dense](double rows, std::int64_t most) {
            return std::min(rows * dense, std::max(real(most) / fp32_bytes, dense));
        };
        return block(real(batch.samples), rademacher_gradient_bytes) +
               block(real(plan.sketch.width), rademacher_sign_bytes);
    }
    if (settings.sketch == SketchKind::hadamard) {
        // The transform, and when its entries are drawn as many bytes for their keys.
        double padded = 0.0;
        for (const auto& layer : plan.layers) padded = std::max(padded, real(padded_entries(layer)));
        return whole + 4.0 * padded;
    }
    double norm = 0.0;
    for (const auto& layer : plan.layers) norm = std::max(norm, norm_numbers(layer, real(batch.longest)));
    // Of the rows that are taken apart at a time two count sketches and their spectra, and the samples' sums.
    const double spectra =
        real(plan.sketch.length) * (4.0 * real(std::min(tensor_rows_at_once, batch.longest)) + real(batch.samples));
    return std::max({norm, whole, spectra});
}

/// Numbers of a direction in the state.
double direction_numbers(const GradientPlan& plan) { return real(plan.pieces) * real(plan.piece_width); }

/// The largest micro-batch of a stage over places.
plan::Batch batch_of(const GradientPlan& plan, const Planner& planner, const char* stage) {
    return plan::largest_batch(planner.plan.stage(plan.stage(stage)).units, planner.run.batch_tokens,
                               [&](const data::WorkUnit& unit) {
                                   std::vector<plan::Length> lengths;
                                   for (auto place = unit.rows.first; place < unit.rows.end(); ++place)
                                       lengths.push_back(place_length(plan, planner, place));
                                   return lengths;
                               });
}

/// Numbers of so many bytes in every rank, with what to use instead; in these stages alone, or in none of them.
void add_need(Planner& planner, const char* what, double bytes, const std::string& remedy,
              std::vector<std::string> during, std::vector<std::string> except = {}, bool on_gpu = false) {
    planner.plan.needs.push_back({.what = what,
                                  .per_rank = bytes,
                                  .remedy = remedy,
                                  .during = std::move(during),
                                  .except = std::move(except),
                                  .on_gpu = on_gpu});
}

/// What is made of the targets, up to the columns.
void plan_column_needs(const GradientSettings& settings, const GradientPlan& plan, Planner& planner, double columns,
                       const std::vector<std::string>& before) {
    const double width = real(plan.sketch.width), pairs = real(plan.curvature_columns);
    const std::string remedy = settings.sketch == SketchKind::none ? "--sketch tensor" : "a smaller --sketch-dim";
    add_need(planner, "maps of the sketch", fp32_bytes * map_numbers(settings, plan), remedy, {}, {}, true);
    add_need(planner, "sketches of the targets", fp32_bytes * width * real(plan.targets()), remedy, before);
    // In fp64, put together, and the mean of --contrast.
    add_need(planner, "sketches of the columns", twice * width * (2.0 * (columns + pairs) + 1.0), remedy,
             {plan.stage(gradient_state::columns)});
    add_need(planner, "sketches of the columns", fp32_bytes * width * (columns + pairs), remedy, {}, before, true);
    if (plan.step_products > 0)
        add_need(planner, "optimizer's constant step", fp32_bytes * step_matrices * model::largest_entries(plan.layers),
                 "", {gradient_state::targets, gradient_state::curvature});
}

/// Directions are put together on the host of every rank; where that is not what it computes on, they are copied, all
/// but the contrast's.
void plan_direction_needs(const GradientPlan& plan, Planner& planner) {
    const char* const what = "directions of the tasks";
    const std::string remedy = "fewer layers in --parameters";
    const std::int64_t kept = plan.tasks + plan.curvature_columns;
    const std::int64_t made = kept + (plan.contrast_rows.empty() ? 0 : 1);
    const double direction = direction_numbers(plan);
    // And a piece on its way from the state.
    const double bytes = fp32_bytes * (real(made) * direction + real(plan.piece_width));
    const std::vector<std::string> before{plan.stage(gradient_state::targets), plan.stage(gradient_state::directions),
                                          gradient_state::curvature};
    if (!planner.plan.gpu) return add_need(planner, what, bytes, remedy, {}, before);
    add_need(planner, what, bytes, remedy, {plan.stage(gradient_state::columns)});
    add_need(planner, what, fp32_bytes * real(kept) * direction, remedy, {}, before, true);
    add_need(planner, "sum of a unit's gradients", fp32_bytes * direction, remedy,
             {plan.stage(gradient_state::directions)}, {}, true);
}

void plan_curvature_needs(const GradientPlan& plan, const model::ModelConfig& model, Planner& planner) {
    const double pairs = real(plan.curvature_columns), direction = direction_numbers(plan);
    const auto batch = batch_of(plan, planner, gradient_state::curvature);
    const std::string remedy = "a smaller --curvature-rank";
    const auto pass = model::gradient_pass_bytes(model, plan.layers.front().block, batch, batch.labels);
    planner.plan.add_pass(gradient_state::curvature, {2.0 * pass.activations, 2.0 * pass.fp32}, 0.0);  // dual numbers
    add_need(planner, "directions of the curvature", fp32_bytes * (pairs + curvature_vectors) * direction, remedy,
             {gradient_state::curvature});
    add_need(planner, "directions of the curvature", fp32_bytes * pairs * direction, remedy,
             {gradient_state::directions, gradient_state::columns});
    if (!planner.plan.gpu) return;
    // A unit's product and the direction, and that once more in 16 bits.
    const double narrow = planner.plan.gpu->number_bytes < fp32_bytes ? planner.plan.gpu->number_bytes : 0.0;
    add_need(planner, "directions of the curvature", (2.0 * fp32_bytes + narrow) * direction,
             "fewer layers in --parameters", {gradient_state::curvature}, {}, true);
}

void plan_needs(const GradientSettings& settings, const GradientPlan& plan, Planner& planner, double columns,
                const std::vector<std::string>& steps) {
    const auto add_pass = [&](const char* stage, double unit_bytes) {
        const auto batch = batch_of(plan, planner, stage);
        planner.plan.add_pass(plan.stage(stage), pass_bytes(settings, plan, planner.model, batch),
                              unit_bytes + fp32_bytes * real(plan.sketch.width) * real(batch.rows + batch.samples));
    };
    add_pass(gradient_state::targets, 0.0);
    if (plan.contracts) {
        add_pass(gradient_state::directions, fp32_bytes * direction_numbers(plan));
        plan_direction_needs(plan, planner);
    } else {
        plan_column_needs(settings, plan, planner, columns, steps);
    }
    if (plan.curvature_columns > 0) plan_curvature_needs(plan, planner.model, planner);
    const double moments = plan.kind == GradientKind::adam_step        ? 2.0
                           : plan.kind == GradientKind::preconditioned ? 1.0
                                                                       : 0.0;
    if (planner.plan.gpu && moments > 0.0)
        add_need(planner, "optimizer's numbers", moments * fp32_bytes * model::entries(plan.layers), "", {}, {}, true);
    if (plan.kind == GradientKind::preconditioned)
        planner.plan.needs.push_back(
            {.what = "optimizer's factors, beside them", .per_node = fp32_bytes * model::entries(plan.layers)});
    if (plan.kind == GradientKind::adam_step)
        planner.plan.needs.push_back(
            {.what = "optimizer's moments, beside them", .per_node = 2.0 * fp32_bytes * model::entries(plan.layers)});
}

}  // namespace

plan::PassBytes pass_bytes(const GradientSettings& settings, const GradientPlan& plan, const model::ModelConfig& model,
                           const plan::Batch& batch) {
    auto bytes = model::gradient_pass_bytes(model, plan.layers.front().block, batch, batch.labels);
    bytes.fp32 += fp32_bytes * sketching_numbers(settings, plan, batch);
    return bytes;
}

double exact_flops(const GradientPlan& plan, const GradientCost& cost, const Layout& layout,
                   const data::CorpusIndex& pool, std::int64_t row) {
    const auto [tokens, labels] = model::used_length(pool, row);
    if (plan.contracts) return cost.contraction(tokens, labels, layout.products(), plan.kind);
    return cost.gradient(tokens, labels, plan.kind) + cost.scores(layout.products());
}

std::vector<std::string> gradient_steps(const std::vector<std::string>& suffixes) {
    std::vector<std::string> steps;
    for (const auto& suffix : suffixes)
        for (const std::string step :
             {gradient_state::targets, gradient_state::directions, gradient_state::curvature, gradient_state::columns})
            steps.push_back(step + suffix);
    return steps;
}

GradientPlan plan_gradients(const options::Values& values, Planner& planner, const Wanted& wanted) {
    const bool optimizer = !values.of<GradientSettings>().optimizer.empty();
    const auto steps = gradient_steps({""});
    auto plan = plan_gradients(values, planner, wanted,
                               {.kind = optimizer ? GradientKind::preconditioned : GradientKind::plain}, steps);
    planner.earlier.insert(planner.earlier.end(), steps.begin(), steps.end());
    return plan;
}

GradientPlan plan_gradients(const options::Values& values, Planner& planner, const Wanted& wanted,
                            const GradientPart& part, const std::vector<std::string>& steps) {
    const auto& settings = values.of<GradientSettings>();
    const bool by_task = values.of<options::InputSettings>().columns == options::ColumnKind::tasks;
    GradientPlan plan;
    plan.layers = model::chosen_layers(planner.model, settings.parameters);
    plan.contracts = by_task && wanted.whole_pool;
    plan.suffix = part.suffix;
    plan.kind = part.kind;
    if (!plan.contracts) plan.sketch = sketch_shape(settings, plan.layers);
    plan.tasks = planner.usable.tasks;
    plan.target_rows = planner.usable.target_rows;
    plan.target_task = planner.usable.target_task;
    plan.contrast_rows = first_of_permutation(planner.usable.eligible, planner.run.seed, "contrast",
                                              std::min(settings.contrast, planner.usable.eligible_rows));
    if (wanted.curvature_columns) plan.curvature_columns = settings.curvature_rank;
    if (plan.kind == GradientKind::preconditioned && !by_task) plan.step_products = 1;
    if (plan.contracts || wanted.curvature_columns) {
        for (const auto& layer : plan.layers) plan.parameters += layer.outputs * layer.inputs;
        plan.piece_width = std::min(plan.parameters, direction_piece);
        plan.pieces = (plan.parameters + plan.piece_width - 1) / plan.piece_width;
    }
    const GradientCost cost(planner.model, plan.layers, settings.sketch, plan.sketch);
    auto& decided = planner.plan.decisions;
    decided.add(plan.contrast_rows);
    decided.add(plan.sketch.side);
    decided.add(plan.sketch.width);
    decided.add(plan.curvature_columns);
    if (!plan.contrast_rows.empty())
        planner.plan.notes.push_back(
            fmt::format("contrast with the mean gradient of {} pool samples", plan.contrast_rows.size()));
    if (!plan.contracts && part.first)
        planner.plan.notes.push_back(fmt::format("sketch of {} numbers", plan.sketch.width));
    planner.plan.stages.push_back(target_stage(plan, planner, cost));
    if (plan.contracts) planner.plan.stages.push_back(direction_stage(plan, planner, cost));
    if (wanted.curvature_columns) planner.plan.stages.push_back(curvature_stage(plan, planner, cost));
    plan_needs(settings, plan, planner, real(by_task ? plan.tasks : plan.targets()), steps);
    return plan;
}

}  // namespace idistill::influence
