// Speed of the passes beside the product peak of the same ranks at the same moment: what jobs/bench.sh runs.
//   mpirun -n RANKS bench_passes MODEL TOKENS.h5 SAMPLES ROUNDS [PASS [cuda|cpu BATCH_TOKENS [nondeterministic]]]
//   mpirun -n RANKS bench_passes weighted ROWS COLUMNS [limited|auto]    optimal weights of generated influences
//   mpirun -n RANKS bench_passes network ROWS COLUMNS [symmetric]    pairs of the InfluenceNetwork, as published
// PASS: comma-separated, or all. With cuda in bf16 on this rank's GPU, whose most memory is printed too, of tensors and
// of what PyTorch kept for them; nondeterministic: with the algorithms that no run takes, to know what the others cost.
// Every round measures the peak, then one pass, so that a ratio compares neighbours in time; medians over rounds are
// printed. FLOPs are those that a run plans with: what the mathematics needs.

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>

#include "bench_generated.hpp"
#include "idistill/comm/mpi.hpp"
#include "idistill/data/token_file.hpp"
#include "idistill/embedding/embedding.hpp"
#include "idistill/embedding/encoder.hpp"
#include "idistill/influence/gradient/cost.hpp"
#include "idistill/influence/gradient/passes.hpp"
#include "idistill/model/cuda.hpp"
#include "idistill/model/loaded_model.hpp"
#include "idistill/model/safetensors.hpp"
#include "idistill/propagation/kernel_ridge.hpp"
#include "idistill/selection/selection.hpp"
#include "timing.hpp"

namespace {

using namespace idistill;
using at::Tensor;
using benchmarks::median, benchmarks::sum_over_ranks;
using influence::GradientKind;

const influence::GradientSettings gradient;
options::RunSettings run;

bool on_gpu() { return run.device == options::DeviceKind::cuda; }
/// Where numbers are drawn: a 7B model's directions would take minutes on one core.
at::TensorOptions here() { return at::TensorOptions().device(model::place_of(run).device).dtype(at::kFloat); }
void wait_for_gpu() {
    if (on_gpu()) model::cuda::synchronise();
}
/// Seconds of the slowest rank, and of its GPU.
double timed_on_device(comm::Communicator& comm, const std::function<void()>& work) {
    wait_for_gpu();
    return benchmarks::timed(comm, [&] {
        work();
        wait_for_gpu();
    });
}

struct Bench {
    comm::Communicator& comm;
    const model::Decoder& decoder;
    const model::ModelConfig& config;
    data::Samples mine;  ///< this rank's share of the samples
    int rounds;
};

/// FLOP/s of large products in the numbers of the passes, all ranks at once.
double peak(comm::Communicator& comm) {
    const auto place = model::place_of(run);
    const std::int64_t n = on_gpu() ? 8192 : 1536;
    const auto options = at::TensorOptions().device(place.device).dtype(place.dtype);
    static const Tensor a = at::rand({n, n}, options) - 0.5, b = at::rand({n, n}, options) - 0.5;
    static Tensor c = at::empty({n, n}, options);
    constexpr int products = 12;
    const double seconds = timed_on_device(comm, [] {
        for (int i = 0; i < products; ++i) at::mm_out(c, a, b);
    });
    const auto side = static_cast<double>(n);
    return 2.0 * side * side * side * products * comm.size() / seconds;
}

/// One line: `units` per second, FLOP/s, and that over the peak.
void measure(const Bench& bench, const std::string& name, const char* unit, std::int64_t my_units, double my_flops,
             const std::function<void()>& warm_up, const std::function<void()>& work) {
    const auto units = static_cast<double>(sum_over_ranks(bench.comm, my_units));
    const auto flops = static_cast<double>(sum_over_ranks(bench.comm, static_cast<std::int64_t>(my_flops)));
    warm_up();
    if (on_gpu()) work();  // the allocator's memory, and the libraries' choices
    if (on_gpu()) {
        model::cuda::give_back_unused();
        model::cuda::forget_most_bytes();
    }
    std::vector<double> rate, share, peaks;
    for (int round = 0; round < bench.rounds; ++round) {
        const double before = peak(bench.comm);
        const double seconds = timed_on_device(bench.comm, work);
        const double around = 0.5 * (before + peak(bench.comm));
        rate.push_back(units / seconds);
        share.push_back(flops / seconds / around);
        peaks.push_back(around);
    }
    if (bench.comm.is_root())
        fmt::print("{:<34} {:>9.0f} {}/s  {:>6.1f} GFLOP/s  {:>4.0f} % of the peak of {:.1f}\n", name, median(rate),
                   unit, median(share) * median(peaks) * 1e-9, 100 * median(share), median(peaks) * 1e-9);
    if (bench.comm.is_root() && on_gpu())
        fmt::print("{:<34} most memory {:.2f} GB, {:.2f} GB kept\n", "", model::cuda::most_bytes().allocated * 1e-9,
                   model::cuda::most_bytes().reserved * 1e-9);
}

std::int64_t length(const data::Samples& samples, std::int64_t i) {
    return samples.offsets[static_cast<std::size_t>(i) + 1] - samples.offsets[static_cast<std::size_t>(i)];
}

/// The samples of `file` among its first `count` that have labels, every size-th from `rank` on.
data::Samples share(const data::TokenFile& file, std::int64_t count, int rank, int size) {
    const auto all = file.read({0, std::min(count, file.size())});
    data::Samples mine;
    mine.offsets.push_back(0);
    std::vector<std::int64_t> order;
    for (std::int64_t i = 0; i < all.size(); ++i)
        if (influence::used_tokens(all, i) > 0) order.push_back(i);
    // Longest first, then dealt in turn: the ranks' shares weigh the same.
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return length(all, a) > length(all, b); });
    for (std::size_t j = 0; j < order.size(); ++j) {
        const auto turn = static_cast<int>(j) % (2 * size);
        if ((turn < size ? turn : 2 * size - 1 - turn) != rank) continue;
        const auto first = all.offsets[static_cast<std::size_t>(order[j])];
        const auto end = all.offsets[static_cast<std::size_t>(order[j]) + 1];
        mine.tokens.insert(mine.tokens.end(), all.tokens.begin() + first, all.tokens.begin() + end);
        mine.label_mask.insert(mine.label_mask.end(), all.label_mask.begin() + first, all.label_mask.begin() + end);
        mine.offsets.push_back(mine.offsets.back() + end - first);
    }
    return mine;
}

data::Samples first_of(const data::Samples& samples) {
    const auto end = samples.offsets[1];
    return {{samples.tokens.begin(), samples.tokens.begin() + end},
            {samples.label_mask.begin(), samples.label_mask.begin() + end},
            {0, end}};
}

void bench_embedding(const Bench& bench, const std::string& title, const std::string& name, std::int64_t rank) {
    const embedding::EmbeddingSettings settings;
    options::Values values;
    auto& jvp = values.of<embedding::JvpSettings>();
    jvp.direction_rank = rank;
    const data::CorpusIndex no_rows;
    const plan::UsableRows none_usable;
    plan::Plan plan;
    model::Planner planner{bench.config, no_rows, no_rows, none_usable, run, plan};
    const auto planned = embedding::make_embedding(name, values);
    planned->plan(planner);
    const auto embed =
        name == "hidden"
            ? embedding::make_hidden_encoder(bench.decoder, settings.jvp_blocks, run.seed, planned->width())
            : embedding::make_jvp_encoder(bench.decoder, settings.jvp_blocks, jvp, run.seed, planned->width());
    double flops = 0;
    for (std::int64_t i = 0; i < bench.mine.size(); ++i) flops += planned->flops(length(bench.mine, i), 0);
    const auto pass = [&](const data::Samples& samples) { (*embed)(samples, run.batch_tokens); };
    measure(
        bench, title, "tokens", bench.mine.offsets.back(), flops, [&] { pass(first_of(bench.mine)); },
        [&] { pass(bench.mine); });
}

/// Planned FLOPs of a gradient pass over this rank's samples: `of` their used tokens and labels.
double planned(const Bench& bench, const std::function<double(std::int64_t, std::int64_t)>& of) {
    double flops = 0;
    for (std::int64_t i = 0; i < bench.mine.size(); ++i) {
        const auto first = bench.mine.label_mask.begin() + bench.mine.offsets[static_cast<std::size_t>(i)];
        flops += of(influence::used_tokens(bench.mine, i), std::count(first + 1, first + length(bench.mine, i), 1));
    }
    return flops;
}

/// Positive factors over a few decades, as an optimizer has them; none of a plain step.
influence::Preconditioner factors(const std::vector<model::LinearLayer>& layers, GradientKind kind) {
    influence::Preconditioner preconditioner;
    if (kind == GradientKind::plain) return preconditioner;
    for (const auto& layer : layers)
        preconditioner.scales.push_back(at::randn({layer.outputs, layer.inputs}, here()).mul_(std::log(10.0)).exp_());
    return preconditioner;
}

void bench_gradient(const Bench& bench, const std::string& name, GradientKind kind,
                    influence::SketchKind sketch_kind = gradient.sketch) {
    auto settings = gradient;
    settings.sketch = sketch_kind;
    const model::ChosenLayers chosen(bench.config, model::chosen_layers(bench.config, gradient.parameters));
    const auto shape = influence::sketch_shape(settings, chosen.layers());
    const auto sketch =
        influence::make_sketch(sketch_kind, chosen.layers(), shape.width, run.seed, bench.decoder.options());
    const influence::GradientCost cost(bench.config, chosen.layers(), sketch_kind, shape);
    const auto preconditioner = factors(chosen.layers(), kind);
    const auto pass = [&](const data::Samples& samples) {
        influence::gradient_sketches(bench.decoder, chosen, *sketch, samples, run.batch_tokens, preconditioner);
    };
    const auto flops = planned(bench, [&](auto tokens, auto labels) { return cost.gradient(tokens, labels, kind); });
    measure(
        bench, name, "tokens", bench.mine.offsets.back(), flops, [&] { pass(first_of(bench.mine)); },
        [&] { pass(bench.mine); });
}

/// Exact products with the gradients of so many tasks in place of a sketch.
void bench_contraction(const Bench& bench, const std::string& name, std::int64_t tasks, GradientKind kind) {
    const model::ChosenLayers chosen(bench.config, model::chosen_layers(bench.config, gradient.parameters));
    const influence::GradientCost cost(bench.config, chosen.layers(), gradient.sketch, {});
    const auto preconditioner = factors(chosen.layers(), kind);
    std::vector<Tensor> directions;
    for (const auto& layer : chosen.layers())
        directions.push_back(at::randn({tasks, layer.outputs, layer.inputs}, here()));
    const auto pass = [&](const data::Samples& samples) {
        influence::gradient_products(bench.decoder, chosen, directions, samples, run.batch_tokens, preconditioner);
    };
    const auto flops =
        planned(bench, [&](auto tokens, auto labels) { return cost.contraction(tokens, labels, tasks, kind); });
    measure(
        bench, name, "tokens", bench.mine.offsets.back(), flops, [&] { pass(first_of(bench.mine)); },
        [&] { pass(bench.mine); });
}

void bench_propagate_and_select(const Bench& bench) {
    constexpr std::int64_t landmarks = 1024, columns = 64, samples = 8192;
    const auto width = 2 * bench.config.hidden;
    const auto features = [&](std::int64_t n) {
        return propagation::Features{at::randn({n, width}), at::randint(56, {n}, at::kLong), at::rand({n, 2})};
    };
    propagation::Solution solution;
    solution.landmarks = features(landmarks);
    solution.embedding_bandwidths = {std::sqrt(2.0 * static_cast<double>(width))};
    solution.length_bandwidth = 0.5;
    solution.coefficients = at::randn({landmarks, columns + 1}, at::kDouble);
    solution.intercept = at::zeros({columns + 1}, at::kDouble);
    const propagation::Propagator propagate(solution, model::place_of(run).device);
    const auto pool = features(samples);
    const std::vector<std::uint8_t> eligible(static_cast<std::size_t>(samples * bench.comm.size()), 1);
    const std::vector<std::int32_t> ones(eligible.size(), 1), zeros(eligible.size(), 0);
    selection::Request request;
    request.budget.samples = samples * bench.comm.size() / 20;
    request.column_task.assign(columns, 0);
    request.tasks = 1;
    request.eligible = eligible;
    request.tokens = ones;
    request.source = zeros;
    const double flops = 2.0 * landmarks * static_cast<double>(width + columns + 1) * samples;  // columns and norm
    const auto pass = [&] {
        const auto influence = propagate(pool).narrow(1, 0, columns).cpu().contiguous();
        const auto first_row = bench.comm.rank() * samples;
        const selection::Shard shard{first_row, samples, columns,
                                     [&](std::int64_t first, std::int64_t count, std::span<float> out) {
                                         std::copy_n(influence.const_data_ptr<float>() + (first - first_row) * columns,
                                                     count * columns, out.begin());
                                     }};
        selection::select(bench.comm, shard, request);
    };
    measure(bench, "(d) propagate + select", "samples", samples, flops, pass, pass);
}

}  // namespace

int main(int argc, char** argv) try {
    mallopt(M_MMAP_THRESHOLD, 1 << 30);  // as main.cpp
    mallopt(M_TRIM_THRESHOLD, -1);
    const comm::MpiProcess mpi(argc, argv);
    if (argc < 4) return 2;
    std::setvbuf(stdout, nullptr, _IOLBF, 0);  // what was measured is there when the rest is killed
    at::set_num_threads(1);
    const auto comm = comm::make_mpi_communicator(600.0);
    if (std::string(argv[1]) == "weighted") {
        benchmarks::bench_weights(*comm, std::stoll(argv[2]), std::stoll(argv[3]), argc > 4 ? argv[4] : "");
        return 0;
    }
    if (std::string(argv[1]) == "network") {
        benchmarks::bench_network(*comm, std::stoll(argv[2]), std::stoll(argv[3]), argc > 4);
        return 0;
    }
    if (argc < 5) return 2;
    if (argc > 7) run.batch_tokens = std::stoll(argv[7]);
    if (argc > 7 && std::string(argv[6]) == "cuda") {
        run.device = options::DeviceKind::cuda;
        run.dtype = options::DtypeKind::bf16;
        model::cuda::use_gpu(0);
        if (argc > 8) at::globalContext().setDeterministicAlgorithms(false, /*warn_only=*/false);
    }
    const auto config = model::check_model(argv[1]).config;
    const auto loaded = model::load_model(*comm, argv[1], config, model::place_of(run));
    const Bench bench{*comm, *loaded.decoder, config,
                      share(data::TokenFile(argv[2]), std::stoll(argv[3]), comm->rank(), comm->size()),
                      std::stoi(argv[4])};
    const std::string only = argc > 5 ? argv[5] : "all";
    const auto wanted = [&](const std::string& name) {
        return only == "all" || ("," + only + ",").find("," + name + ",") != std::string::npos;
    };

    if (comm->is_root()) fmt::print("ranks {}, threads each 1\n", comm->size());
    if (wanted("jvp")) bench_embedding(bench, "(b) jvp, rank 8", "jvp", 8);
    if (wanted("dense")) bench_embedding(bench, "(b) jvp, dense directions", "jvp", 0);
    if (wanted("hidden")) bench_embedding(bench, "(b) hidden", "hidden", 8);
    using enum GradientKind;
    if (wanted("gradient")) bench_gradient(bench, "(c) gradient sketch", plain);
    if (wanted("kronecker"))
        bench_gradient(bench, "(c) with a kronecker sketch", plain, influence::SketchKind::kronecker);
    if (wanted("adam")) bench_gradient(bench, "(c') of an Adam step", preconditioned);
    if (wanted("task")) bench_contraction(bench, "(c1) exact on 1 task", 1, plain);
    if (wanted("tasks")) bench_contraction(bench, "(c5) exact on 5 tasks", 5, plain);
    if (wanted("adam-tasks")) bench_contraction(bench, "(c5') of an Adam step", 5, preconditioned);
    if (wanted("propagate")) bench_propagate_and_select(bench);
    return 0;
} catch (const std::exception& error) {
    fmt::print(stderr, "bench_passes: {}\n", error.what());
    idistill::comm::MpiProcess::abort(1);
}
