// Kernel ridge as a propagation: rank 0 solves in fp64, eigenvalues on its GPU where it has one, for every combination
// of embeddings that --embedding auto allows; what it chooses is broadcast.

#include "member.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "idistill/base/error.hpp"
#include "idistill/comm/say.hpp"
#include "idistill/embedding/embedding.hpp"
#include "idistill/embedding/parts.hpp"
#include "idistill/propagation/settings.hpp"
#include "report.hpp"

namespace idistill::propagation {

std::unique_ptr<Propagation> make_kernel_ridge(const options::Values& values);  // for options.cpp

namespace {

using torch::Tensor;

constexpr double near_best = 1.02;  // of the least leave-one-out error: --embedding auto takes the cheapest up to it
constexpr double eigen_matrices = 5.0;      // kernel, vectors, their squares, workspace of the solver
constexpr double bandwidth_matrices = 5.0;  // distances, other kernels, vectors and squares of the best so far
constexpr double bandwidths = 5.0;          // that --bandwidth auto compares
constexpr double solve_labels = 7.0;        // labels, solved and rotated, coefficients and predictions, fp64
constexpr double eigen_flops = 9.0;         // times L^3, symmetric eigenvalues with vectors

const std::string solve_stage = "solve";

double real(std::int64_t value) { return static_cast<double>(value); }

using LandmarkFeatures = std::function<Features(const Places&)>;

/// Kernel features of these rows with their embeddings (n x e).
Features features_of(const data::CorpusIndex& index, const std::vector<std::int64_t>& rows, const Tensor& embedding) {
    const auto count = std::ssize(rows);
    auto source = at::empty({count}, at::TensorOptions().dtype(torch::kInt64));
    auto lengths = at::empty({count, 2}, at::TensorOptions().dtype(torch::kFloat32));
    auto* s = source.mutable_data_ptr<std::int64_t>();
    auto* l = lengths.mutable_data_ptr<float>();
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const auto row = static_cast<std::size_t>(rows[i]);
        s[i] = index.source[row];
        l[2 * i] = std::log(static_cast<float>(index.tokens[row]));
        l[2 * i + 1] = std::log(static_cast<float>(index.labels[row]));
    }
    return {embedding, source, lengths};
}

/// Labels of the landmarks as they are fitted: products, and behind them the logarithms.
struct Fitted {
    Tensor labels;  ///< (L x fitted)
    const Tasks& tasks;
    const std::vector<std::int64_t>& rows;  ///< of the pool
    const std::vector<double>& flops;       ///< (L) of exact influence
    const data::CorpusIndex& index;
};

double error_of(const SolveResult& solved) {
    for (const auto& trial : solved.kernels)
        if (is_chosen(trial, solved.solution)) return trial.best.error;
    return std::numeric_limits<double>::quiet_NaN();
}

class KernelRidge final : public Propagation {
public:
    explicit KernelRidge(const options::Values& values)
        : settings_(values.of<KernelRidgeSettings>()), choice_(values.of<embedding::EmbeddingSettings>()) {
        for (const auto& name : embedding::embedding_names(choice_))
            embeddings_.push_back(embedding::make_embedding(name, values));
    }

    void plan(model::Planner& planner, const influence::Layout& layout,
              const std::vector<std::int64_t>& landmark_counts) override {
        const auto landmarks = landmark_counts.back();
        layout_ = layout;
        landmarks_ = landmarks;
        for (const auto& embedding : embeddings_) {
            embedding->plan(planner);
            widths_.push_back(embedding->width());
            planner.plan.decisions.add(embedding->width());
        }
        const double count = real(landmarks), labels = real(layout.fitted());
        // Of every rank: embeddings as gathered, in the solution and in the propagator; for every label the influence,
        // leave-one-out and the propagator's coefficients, and in fp64 the coefficients and one copy on their way.
        planner.plan.needs.push_back({.what = "landmarks",
                                      .per_rank = count * (3 * sizeof(float) * real(width()) +
                                                           (3 * sizeof(float) + 2 * sizeof(double)) * labels),
                                      .remedy = "fewer --landmarks",
                                      .except = planner.earlier});
        // The embeddings' distances are held side by side until their kernels are added.
        const double matrices = eigen_matrices + (kernels_compared() > 1.0 ? bandwidth_matrices : 0.0) +
                                real(std::ssize(embeddings_)) - 1.0;
        planner.plan.needs.push_back(
            {.what = "solve",
             .on_rank_0 = count * sizeof(double) * (matrices * count + real(width()) + solve_labels * labels),
             .remedy = "fewer --landmarks",
             .during = {solve_stage}});
        if (planner.plan.gpu)
            planner.plan.needs.push_back({.what = "solve",
                                          .per_rank = count * count * sizeof(double) * eigen_matrices,
                                          .remedy = "fewer --landmarks",
                                          .during = {solve_stage},
                                          .on_gpu = true});
        const double flops = eigen_flops * kernels_compared() *
                             real(std::ssize(embedding::embedding_candidates(choice_))) * count * count * count;
        planner.plan.stages.push_back(
            {.name = solve_stage, .title = "solve (rank 0)", .columns = {}, .units = {{{0, landmarks}, flops}}});
        planner.plan.notes.push_back(fmt::format("embedding of {} numbers", width()));
        plan_fit(planner.plan, layout.columns, planner.usable.tasks, names(), candidate_names());
    }

    [[nodiscard]] bool reads_weights() const override {
        return std::any_of(embeddings_.begin(), embeddings_.end(),
                           [](const auto& embedding) { return embedding->reads_weights(); });
    }
    [[nodiscard]] std::int64_t width() const override {
        return std::accumulate(widths_.begin(), widths_.end(), std::int64_t{0});
    }

    [[nodiscard]] double feature_flops(std::int64_t tokens, std::int64_t labels) const override {
        double flops = 0.0;
        for (const auto& embedding : embeddings_) flops += embedding->flops(tokens, labels);
        return flops;
    }

    [[nodiscard]] double prediction_flops(std::int64_t tokens, std::int64_t labels) const override {
        return feature_flops(tokens, labels) + kernel_flops(landmarks_, width());
    }

    /// The embeddings follow each other; then their rows side by side, and of predictions what is fitted and a copy.
    [[nodiscard]] plan::PassBytes pass_bytes(const plan::Batch& largest) const override {
        plan::PassBytes most;
        for (const auto& embedding : embeddings_) most = plan::larger(most, embedding->pass_bytes(largest));
        return most;
    }
    [[nodiscard]] double unit_bytes(const plan::Batch& largest) const override {
        double bytes = sizeof(float) * real(largest.rows) * (real(width()) + 2.0 * real(layout_.fitted()));
        for (const auto& embedding : embeddings_) bytes += embedding->unit_bytes(largest);
        return bytes;
    }

    void load(comm::Communicator& comm, const model::Decoder& decoder, const data::Corpus& pool,
              const data::Corpus& /*targets*/, const plan::UsableRows& usable) override {
        device_ = decoder.options().device();
        for (auto& embedding : embeddings_) {
            embedding->load(decoder);
            embedding->match(comm, pool, usable.eligible);
        }
    }

    void identify(nlohmann::json& identity) const override {
        std::vector<std::string> parts;
        for (const auto& embedding : embeddings_) parts.push_back(embedding->identity());
        const bool chooses = embedding::embedding_candidates(choice_).size() > 1;
        identity["embedding"] = fmt::format("{}{}", chooses ? "auto " : "", fmt::join(parts, "+"));
    }

    [[nodiscard]] Tensor features(const data::SampleSet& set) const override {
        Places all(embeddings_.size());
        std::iota(all.begin(), all.end(), std::size_t{0});
        return embed(set, all);
    }

    void fit(const work::Work& work, const data::Corpus& pool, const Landmarks& landmarks,
             const Tasks& tasks) override {
        auto& comm = work.comm;
        const auto place = usable_landmarks(comm, landmarks, choice_.embedding);
        std::vector<std::int64_t> rows;
        std::vector<double> flops;
        for (std::int64_t i = 0; i < place.numel(); ++i) {
            const auto own = static_cast<std::size_t>(place[i].item<std::int64_t>());
            rows.push_back(landmarks.rows[own]);
            flops.push_back(landmarks.flops[own]);
        }
        const auto embedding = landmarks.features.index_select(0, place);
        const LandmarkFeatures features = [&](const Places& places) {
            return features_of(pool.index(), rows, columns_of(embedding, places));
        };
        const auto columns = std::ssize(tasks.of_column);
        Fit fit;
        fit.leave_one_out = work::unknown_rows(landmarks.count(), columns);
        if (comm.is_root()) {
            const auto labels = fitted_labels(landmarks.labels, place, layout_);
            const auto products = labels.size(1) - layout_.logarithms();
            auto solved = choose({labels, tasks, rows, flops, pool.index()}, features, fit);
            auto predictions = solved.leave_one_out.narrow(1, 0, columns);
            if (layout_.per_unit) predictions = predictions * solved.leave_one_out.narrow(1, products, 1).exp();
            fit.leave_one_out.index_copy_(0, place, predictions.to(torch::kFloat32));
            fit.solution = std::move(solved.solution);
            fit.trust = std::move(solved.trust);
            for (std::size_t task = 0; task < tasks.names.size(); ++task)
                fit.trust.task_label_noise.push_back(tasks.label_error[task] * tasks.label_error[task] /
                                                     fit.trust.task_label_variance[task]);
            fit.kernels = std::move(solved.kernels);
        }
        broadcast_fit(comm, fit, features, device_);
        fit_ = std::move(fit);
        propagator_.emplace(fit_.solution, device_);
    }

    [[nodiscard]] Prediction predict(const data::SampleSet& set) const override {
        const auto embedding = embed(set, fit_.embeddings);
        const auto values = (*propagator_)(features_of(set.corpus().index(), set.rows(), embedding)).cpu();
        return {from_fitted(values, layout_), {}};
    }

    [[nodiscard]] std::string judged_by() const override { return "leave-one-out"; }
    [[nodiscard]] const Trust& trust() const override { return fit_.trust; }
    [[nodiscard]] const Tensor& leave_one_out() const override { return fit_.leave_one_out; }
    [[nodiscard]] std::string report(const Tasks& tasks) const override {
        return fit_report(fit_, tasks, candidate_names(), settings_.damping.has_value());
    }

    void write(io::ResultWriter& writer) const override { write_fit(writer, fit_, names(), candidate_names()); }

private:
    [[nodiscard]] double kernel_flops(std::int64_t landmarks, std::int64_t width) const {
        return 2.0 * real(landmarks) * real(width + layout_.fitted());
    }

    /// At most: with --embedding auto some candidates have one embedding.
    [[nodiscard]] double kernels_compared() const {
        const bool both = settings_.kernel == KernelChoice::automatic && embeddings_.size() > 1;
        return (settings_.bandwidth_auto ? bandwidths : 1.0) * (both ? 2.0 : 1.0);
    }

    [[nodiscard]] std::vector<std::string> names() const {
        std::vector<std::string> names;
        for (const auto& embedding : embeddings_) names.push_back(embedding->name());
        return names;
    }

    [[nodiscard]] std::vector<std::string> candidate_names() const {
        std::vector<std::string> names;
        for (const auto& candidate : embedding::embedding_candidates(choice_)) {
            std::vector<std::string> parts;
            for (const auto place : candidate) parts.push_back(embeddings_[place]->name());
            names.push_back(fmt::format("{}", fmt::join(parts, "+")));
        }
        return names;
    }

    /// (n x e): the embeddings at these places side by side.
    [[nodiscard]] Tensor embed(const data::SampleSet& set, const Places& places) const {
        std::vector<Tensor> parts;
        for (const auto place : places) parts.push_back(embeddings_[place]->rows(set));
        return at::cat(parts, 1);
    }

    /// Columns of the embeddings at these places.
    [[nodiscard]] Tensor columns_of(const Tensor& embedding, const Places& places) const {
        const auto parts = embedding.split_with_sizes(widths_, 1);
        std::vector<Tensor> chosen;
        for (const auto place : places) chosen.push_back(parts[place]);
        return at::cat(chosen, 1);
    }

    [[nodiscard]] KernelSettings kernel_settings(const Places& places) const {
        KernelSettings kernel{.bandwidth = settings_.bandwidth,
                              .metadata = settings_.metadata,
                              .choose_bandwidth = settings_.bandwidth_auto,
                              .product = settings_.kernel == KernelChoice::product && places.size() > 1,
                              .choose_product = settings_.kernel == KernelChoice::automatic,
                              .device = device_};
        for (const auto place : places) kernel.widths.push_back(widths_[place]);
        return kernel;
    }

    /// Planned FLOPs of propagating to the landmarks, which stand for the pool, over those of their exact influence.
    [[nodiscard]] double relative_cost(const Fitted& fitted, const Places& places) const {
        std::int64_t width = 0;
        for (const auto place : places) width += widths_[place];
        double flops = 0.0, exact = 0.0;
        for (std::size_t l = 0; l < fitted.rows.size(); ++l) {
            const auto i = static_cast<std::size_t>(fitted.rows[l]);
            for (const auto place : places)
                flops += embeddings_[place]->flops(fitted.index.tokens[i], fitted.index.labels[i]);
            flops += kernel_flops(std::ssize(fitted.rows), width);
            exact += fitted.flops[l];
        }
        return flops / exact;
    }

    [[nodiscard]] SolveResult solve_with(const Fitted& fitted, const LandmarkFeatures& landmarks,
                                         const Places& places) const {
        return solve(landmarks(places), fitted.labels, fitted.tasks.of_column,
                     static_cast<std::int32_t>(fitted.tasks.names.size()), kernel_settings(places), settings_.damping);
    }

    /// Compares the candidates and gives the solution of the chosen one, which goes to `fit` with the trials.
    SolveResult choose(const Fitted& fitted, const LandmarkFeatures& landmarks, Fit& fit) const {
        const auto candidates = embedding::embedding_candidates(choice_);
        if (candidates.size() == 1) {
            fit.embeddings = candidates.front();
            return solve_with(fitted, landmarks, candidates.front());
        }
        auto& trials = fit.trials;
        for (const auto& candidate : candidates) {
            const auto solved = solve_with(fitted, landmarks, candidate);
            trials.cost.push_back(relative_cost(fitted, candidate));
            trials.error.push_back(error_of(solved));
            trials.r2_within_source.push_back(mean_of_numbers(solved.trust.task_r2_within_source));
            trials.r2.push_back(mean_of_numbers(solved.trust.task_r2));
            trials.spearman.push_back(mean_of_numbers(solved.trust.task_spearman));
        }
        fit.candidate = cheapest_near_best(trials.error, trials.cost, near_best);
        fit.embeddings = candidates[fit.candidate];
        return solve_with(fitted, landmarks, fit.embeddings);  // again: all solutions at once are too large
    }

    KernelRidgeSettings settings_;
    embedding::EmbeddingSettings choice_;
    std::vector<std::unique_ptr<embedding::Embedding>> embeddings_;
    std::vector<std::int64_t> widths_;
    influence::Layout layout_;
    std::int64_t landmarks_ = 0;
    torch::Device device_ = torch::kCPU;
    Fit fit_;
    std::optional<Propagator> propagator_;
};

}  // namespace

std::unique_ptr<Propagation> make_kernel_ridge(const options::Values& values) {
    return std::make_unique<KernelRidge>(values);
}

}  // namespace idistill::propagation
