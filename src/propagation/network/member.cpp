// The network as a propagation: rank 0 learns, epoch by epoch, which the state keeps; all ranks predict. A column is
// the mean embedding of the targets that it stands for. What belongs to a sample alone - columns of no target, and what
// propagates beside the influence - is learnt by a second network, of e_i.

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>
#include <unordered_map>
#include <utility>

#include "../sender.hpp"
#include "fit.hpp"
#include "idistill/base/error.hpp"
#include "idistill/embedding/embedding.hpp"
#include "idistill/embedding/parts.hpp"
#include "idistill/model/cost.hpp"
#include "idistill/propagation/settings.hpp"
#include "pair_similarity.hpp"

namespace idistill::propagation {

std::unique_ptr<Propagation> make_network(const options::Values& values);  // for options.cpp

namespace {

using torch::Tensor;

const std::string target_stage = "target_embeddings";
const std::string pair_stage = "network";
const std::string sample_stage = "sample_network";
constexpr const char* embedding_column = "embedding";

double real(std::int64_t value) { return static_cast<double>(value); }

class Network final : public Propagation {
public:
    explicit Network(const options::Values& values)
        : settings_(values.of<NetworkSettings>()), choice_(values.of<embedding::EmbeddingSettings>()) {
        for (const auto& name : embedding::embedding_names(choice_))
            embeddings_.push_back(embedding::make_embedding(name, values));
    }

    void plan(model::Planner& planner, const influence::Layout& layout,
              const std::vector<std::int64_t>& landmark_counts) override {
        if (embedding::embedding_candidates(choice_).size() > 1)
            throw Error(ExitCode::usage,
                        {"--embedding",
                         {},
                         "embeddings by name, joined by +, for a network",
                         choice_.embedding,
                         "auto compares by leave-one-out: use --propagation kernel-ridge, or name them."});
        layout_ = layout;
        counts_ = landmark_counts;
        of_pairs_ = &planner.targets == &planner.pool && layout.columns == std::ssize(planner.usable.target_rows);
        seed_ = planner.run.seed;
        target_rows_ = planner.usable.target_rows;
        eligible_rows_ = planner.usable.eligible_rows;
        model_parameters_ = model::weight_bytes(planner.model) / model::fp32_bytes;
        for (const auto& embedding : embeddings_) {
            embedding->plan(planner);
            width_ += embedding->width();
            planner.plan.decisions.add(embedding->width());
        }
        const bool pairs = !target_rows_.empty();
        shapes_.pairs = {.embedding = width_,
                         .width = settings_.width,
                         .depth = settings_.depth,
                         .outputs = pairs ? 1 : 0,
                         .symmetric = settings_.symmetric,
                         .residual = settings_.residual};
        shapes_.samples = {.embedding = width_,
                           .width = settings_.width,
                           .depth = settings_.depth,
                           .outputs = layout.fitted() - (pairs ? layout.columns : 0),
                           .pairs = false};
        if (pairs) plan_targets(planner);
        plan_learning(planner);
        planner.plan.notes.push_back(fmt::format("embedding of {} numbers", width_));
        plan_network(planner.plan, layout.columns, planner.usable.tasks, settings_.epochs, names());
    }

    [[nodiscard]] std::int64_t width() const override { return width_; }

    [[nodiscard]] bool reads_weights() const override {
        return std::any_of(embeddings_.begin(), embeddings_.end(),
                           [](const auto& embedding) { return embedding->reads_weights(); });
    }

    [[nodiscard]] double feature_flops(std::int64_t tokens, std::int64_t labels) const override {
        double flops = 0.0;
        for (const auto& embedding : embeddings_) flops += embedding->flops(tokens, labels);
        return flops;
    }
    [[nodiscard]] double prediction_flops(std::int64_t tokens, std::int64_t labels) const override {
        return feature_flops(tokens, labels) + network_flops();
    }

    /// The embeddings follow each other; then their rows side by side, halves, and of predictions what is fitted and a
    /// copy.
    [[nodiscard]] double pass_bytes(const plan::Batch& largest) const override {
        double most = 0.0;
        for (const auto& embedding : embeddings_) most = std::max(most, embedding->pass_bytes(largest));
        return most;
    }
    [[nodiscard]] double unit_bytes(const plan::Batch& largest) const override {
        double bytes = sizeof(float) * real(largest.rows) *
                       (real(width_) + 2.0 * real(layout_.fitted()) + 2.0 * half_width() + 2.0 * real(factor_width()));
        for (const auto& embedding : embeddings_) bytes += embedding->unit_bytes(largest);
        return bytes;
    }

    void load(comm::Communicator& comm, const model::Decoder& decoder, const data::Corpus& pool,
              const data::Corpus& targets, const plan::UsableRows& usable) override {
        targets_ = &targets;
        std::vector<std::uint8_t> wanted(static_cast<std::size_t>(targets.size()), 0);
        for (const auto row : target_rows_) wanted[static_cast<std::size_t>(row)] = 1;
        for (auto& embedding : embeddings_) {
            embedding->load(decoder);
            embedding->match(comm, pool, usable.eligible);
            if (&targets != &pool) embedding->match(comm, targets, wanted);
        }
    }

    void identify(nlohmann::json& identity) const override {
        std::vector<std::string> parts;
        for (const auto& embedding : embeddings_) parts.push_back(embedding->identity());
        identity["embedding"] = fmt::format("{}", fmt::join(parts, "+"));
    }

    [[nodiscard]] Tensor features(const data::SampleSet& set) const override {
        std::vector<Tensor> parts;
        for (const auto& embedding : embeddings_) parts.push_back(embedding->rows(set));
        return at::cat(parts, 1);
    }

    void fit(const work::Work& work, const data::Corpus& pool, const Landmarks& landmarks,
             const Tasks& tasks) override {
        if (shapes_.pairs.outputs > 0 && !columns_.defined()) columns_ = column_embeddings(work, tasks);
        const auto place = usable_landmarks(work.comm, landmarks, choice_.embedding);
        NetworkFit fit;
        if (work.comm.is_root()) fit = learn_all(work, pool.index(), landmarks, place, tasks);
        broadcast(work.comm, fit);
        work.state.sync();
        fit_ = std::move(fit);
        const auto& labels = landmarks.labels.products;
        const auto infinite = std::numeric_limits<float>::infinity();
        least_label_ =
            at::where(at::isfinite(labels), labels, at::full({}, infinite, labels.options())).min().item<float>();
        pair_network_.reset();
        sample_network_.reset();
        if (fit_.pairs.epoch > 0) {
            pair_network_.emplace(shapes_.pairs, fit_.pairs.parameters, fit_.pairs.scaling);
            right_ = pair_network_->right(columns_);
        }
        if (fit_.samples.epoch > 0)
            sample_network_.emplace(shapes_.samples, fit_.samples.parameters, fit_.samples.scaling);
        note_cost(landmarks);
    }

    [[nodiscard]] influence::Rows predict(const data::SampleSet& set) const override {
        return from_fitted(fitted_of(features(set), pair_network_, sample_network_, right_), layout_);
    }

    /// A deeper network, and a cosine beside it, have no pair whose bits depend on its two samples alone.
    [[nodiscard]] std::int64_t factor_width() const override {
        const bool separable = settings_.depth == 1 && !settings_.residual;
        return of_pairs_ && separable ? 2 * (settings_.symmetric ? 2 : 1) * settings_.width : 0;
    }
    [[nodiscard]] Tensor factors(const data::SampleSet& set) const override {
        const auto embedding = features(set);
        return at::cat({pair_network_->left(embedding), pair_network_->right(embedding)}, 1);
    }
    [[nodiscard]] std::unique_ptr<selection::Similarity> similarity(selection::ReadFactors read) const override {
        return pair_similarity(*pair_network_, least_label_, std::move(read));
    }

    [[nodiscard]] std::string judged_by() const override { return "held-out samples"; }
    [[nodiscard]] const Trust& trust() const override { return fit_.trust; }
    [[nodiscard]] const Tensor& leave_one_out() const override { return fit_.leave_one_out; }
    [[nodiscard]] std::string report(const Tasks& tasks) const override {
        return network_report(fit_, shapes_, cost_, tasks.names, model_parameters_);
    }
    void write(io::ResultWriter& writer) const override {
        write_network(writer, fit_, shapes_, settings_.epochs, names());
    }

private:
    using Made = std::optional<InfluenceNetwork>;

    [[nodiscard]] std::vector<std::string> names() const {
        std::vector<std::string> names;
        for (const auto& embedding : embeddings_) names.push_back(embedding->name());
        return names;
    }

    [[nodiscard]] double half_width() const {
        return real((settings_.symmetric ? 2 : 1) * settings_.width + (settings_.residual ? width_ : 0));
    }

    /// Of a sample whose embedding is known.
    [[nodiscard]] double network_flops() const {
        double flops = 0.0;
        if (shapes_.pairs.outputs > 0)
            flops += shapes_.pairs.half_flops() + real(layout_.columns) * shapes_.pairs.pair_flops();
        if (shapes_.samples.outputs > 0) flops += shapes_.samples.half_flops();
        return flops;
    }

    void plan_targets(model::Planner& planner) const {
        std::vector<double> flops;
        for (const auto row : target_rows_) {
            const auto [tokens, labels] = model::whole_length(planner.targets, row);
            flops.push_back(std::max(1.0, feature_flops(tokens, labels)));
        }
        const auto row_at = [&](std::int64_t at) { return target_rows_[static_cast<std::size_t>(at)]; };
        planner.plan.stages.push_back(
            {.name = target_stage,
             .title = "embed targets",
             .columns = {{embedding_column, width_}},
             .units = plan::with_tokens(
                 data::cut_units(flops, planner.run.unit_flops, plan::unit_rows),
                 [&](std::int64_t at) { return planner.targets.tokens[static_cast<std::size_t>(row_at(at))]; })});
        const auto batch = plan::largest_batch(
            planner.plan.stages.back().units, planner.run.batch_tokens, [&](const data::WorkUnit& unit) {
                std::vector<plan::Length> lengths;
                for (auto at = unit.rows.first; at < unit.rows.end(); ++at)
                    lengths.push_back(model::whole_length(planner.targets, row_at(at)));
                return lengths;
            });
        planner.plan.add_pass(target_stage, pass_bytes(batch), unit_bytes(batch));
    }

    void plan_learning(model::Planner& planner) const {
        const auto count = counts_.back(), fits = std::ssize(counts_);
        const double labels = real(layout_.fitted()), targets = real(std::ssize(target_rows_));
        const bool pairs = shapes_.pairs.outputs > 0, samples = shapes_.samples.outputs > 0;
        // Of every rank: embeddings as gathered; for every label the influence and what was held out. Embeddings of the
        // targets, of the columns, and their halves.
        planner.plan.needs.push_back(
            {.what = "landmarks",
             .per_rank = sizeof(float) * (real(count) * (real(width_) + 2.0 * labels) +
                                          (targets + real(pairs ? layout_.columns : 0)) * real(width_) +
                                          real(layout_.columns) * half_width()),
             .remedy = "fewer --landmarks",
             .except = planner.earlier});
        const auto need = [&](const std::string& stage, const NetworkShape& shape, std::int64_t columns,
                              std::int64_t all) {
            planner.plan.needs.push_back({.what = "learning",
                                          .on_rank_0 = learning_bytes(shape, count, columns, all) +
                                                       sizeof(float) * real(count) * (real(width_) + 2.0 * labels),
                                          .remedy = "fewer --landmarks",
                                          .during = {stage}});
        };
        if (pairs) {
            const auto all = count * layout_.columns;
            const auto learnt = std::min(settings_.pairs.value_or(all), all);
            planner.plan.stages.push_back(
                learning_stage(pair_stage, "train network", shapes_.pairs, settings_, count, learnt, fits));
            need(pair_stage, shapes_.pairs, layout_.columns, all);
        }
        if (samples) {
            planner.plan.stages.push_back(
                learning_stage(sample_stage, "train on samples", shapes_.samples, settings_, count, count, fits));
            need(sample_stage, shapes_.samples, 0, count);
        }
    }

    /// (C x e) mean embedding of what every column stands for.
    [[nodiscard]] Tensor column_embeddings(const work::Work& work, const Tasks& tasks) const {
        const auto gathered =
            work::do_units_and_gather(work, target_stage,
                                      [&](const data::WorkUnit& unit) {
                                          const auto first = target_rows_.begin() + unit.rows.first;
                                          return std::vector{features({*targets_, {first, first + unit.rows.count}})};
                                      },
                                      {0, std::ssize(target_rows_)});
        std::unordered_map<std::int64_t, std::int64_t> place_of;
        for (std::size_t place = 0; place < target_rows_.size(); ++place)
            place_of[target_rows_[place]] = static_cast<std::int64_t>(place);
        auto columns = at::empty({std::ssize(tasks.targets), width_}, gathered[0].options());
        for (std::size_t column = 0; column < tasks.targets.size(); ++column) {
            std::vector<std::int64_t> places;
            for (const auto row : tasks.targets[column]) places.push_back(place_of.at(row));
            const auto mean = gathered[0]
                                  .index_select(0, at::tensor(places, at::TensorOptions().dtype(torch::kInt64)))
                                  .mean(0, false, torch::kFloat64);
            if (!at::isfinite(mean).all().item<bool>())
                throw Error(ExitCode::bad_input,
                            {"--embedding " + choice_.embedding, "embedding of a target sample", "finite numbers",
                             fmt::format("others, among those of '{}'",
                                         tasks.targets[column].empty()
                                             ? tasks.names.front()
                                             : targets_->read_ids({tasks.targets[column].front(), 1}).front()),
                             "Leave this sample out of its target file, or use another --embedding."});
            columns.select(0, static_cast<std::int64_t>(column)).copy_(mean);
        }
        return columns;
    }

    /// Place among the labelled samples of the one that every column is; -1 for others, and for means of several.
    [[nodiscard]] std::vector<std::int64_t> labelled_of(const data::CorpusIndex& pool, const Tasks& tasks,
                                                        const std::vector<std::int64_t>& rows) const {
        std::vector<std::int64_t> labelled(tasks.targets.size(), -1);
        if (&pool != &targets_->index()) return labelled;
        std::unordered_map<std::int64_t, std::int64_t> place_of;
        for (std::size_t place = 0; place < rows.size(); ++place)
            place_of[rows[place]] = static_cast<std::int64_t>(place);
        for (std::size_t column = 0; column < labelled.size(); ++column) {
            if (tasks.targets[column].size() != 1) continue;
            const auto found = place_of.find(tasks.targets[column].front());
            if (found != place_of.end()) labelled[column] = found->second;
        }
        return labelled;
    }

    [[nodiscard]] std::int64_t fit_number(std::int64_t landmarks) const {
        return std::find(counts_.begin(), counts_.end(), landmarks) - counts_.begin();
    }

    /// On rank 0.
    [[nodiscard]] NetworkFit learn_all(const work::Work& work, const data::CorpusIndex& pool,
                                       const Landmarks& landmarks, const Tensor& place, const Tasks& tasks) const {
        const auto start = std::chrono::steady_clock::now();
        const auto number = fit_number(landmarks.count());
        const auto columns = std::ssize(tasks.of_column);
        std::vector<std::int64_t> rows;
        std::vector<std::int32_t> source;
        for (std::int64_t i = 0; i < place.numel(); ++i) {
            rows.push_back(landmarks.rows[static_cast<std::size_t>(place[i].item<std::int64_t>())]);
            source.push_back(pool.source[static_cast<std::size_t>(rows.back())]);
        }
        const auto embedding = landmarks.features.index_select(0, place);
        const auto fitted = fitted_labels(landmarks.labels, place, layout_);
        const bool has_pairs = shapes_.pairs.outputs > 0;
        const auto labelled = has_pairs ? labelled_of(pool, tasks, rows)
                                        : std::vector<std::int64_t>(static_cast<std::size_t>(columns), -1);
        const bool by_target = std::any_of(tasks.targets.begin(), tasks.targets.end(),
                                           [](const auto& targets) { return targets.size() == 1; });
        const auto split = split_samples(std::ssize(rows), labelled, has_pairs && by_target, seed_);
        NetworkFit fit;
        fit.labelled = std::ssize(split.rows);
        fit.targets = std::ssize(split.columns);
        fit.held_samples = std::ssize(split.held_rows);
        fit.held_targets = split.holds_columns ? std::ssize(split.held_columns) : 0;
        Made of_pairs, of_samples;
        Tensor right;
        const auto labels = fitted.narrow(1, 0, columns).contiguous();
        if (has_pairs) {
            if (pairs_of(split.rows, split.columns, labelled).empty())
                throw Error(ExitCode::bad_input,
                            {"landmarks", "pairs of two labelled samples", "at least one", "none",
                             "Give more --landmarks: those with finite influence are the targets as well."});
            fit.pairs = learn(work, pair_stage, number, {shapes_.pairs, embedding, columns_, labels, split, labelled},
                              settings_, seed_);
            of_pairs.emplace(shapes_.pairs, fit.pairs.parameters, fit.pairs.scaling);
            right = of_pairs->right(columns_);
        }
        if (shapes_.samples.outputs > 0) {
            const auto own = has_pairs ? fitted.narrow(1, columns, fitted.size(1) - columns).contiguous() : fitted;
            auto alone = split;
            alone.columns = alone.held_columns = {0};
            fit.samples =
                learn(work, sample_stage, number, {shapes_.samples, embedding, {}, own, alone, {-1}}, settings_, seed_);
            of_samples.emplace(shapes_.samples, fit.samples.parameters, fit.samples.scaling);
        }
        fit.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

        const auto held = at::tensor(split.held_rows, at::TensorOptions().dtype(torch::kInt64));
        const auto predicted = fitted_of(embedding.index_select(0, held), of_pairs, of_samples, right);
        const auto predicted_columns = predicted.narrow(1, 0, columns).contiguous();
        const Judged judged{labels, embedding, columns_, predicted_columns, split, labelled};
        fit.agreement = agreement(judged);
        fit.trust = held_out_trust(judged, tasks.of_column, static_cast<std::int32_t>(tasks.names.size()), source);
        for (std::size_t task = 0; task < tasks.names.size(); ++task)
            fit.trust.task_label_noise.push_back(tasks.label_error[task] * tasks.label_error[task] /
                                                 fit.trust.task_label_variance[task]);
        fit.leave_one_out = at::full({landmarks.count(), columns}, std::numeric_limits<float>::quiet_NaN());
        fit.leave_one_out.index_copy_(0, place.index_select(0, held),
                                      from_fitted(predicted, layout_).products.narrow(1, 0, columns));
        return fit;
    }

    /// (n x fitted) of embeddings.
    [[nodiscard]] Tensor fitted_of(const Tensor& embedding, const Made& of_pairs, const Made& of_samples,
                                   const Tensor& right) const {
        std::vector<Tensor> parts;
        if (of_pairs) parts.push_back(of_pairs->scores(of_pairs->left(embedding), right));
        if (of_samples) parts.push_back(of_samples->of_samples(embedding));
        return parts.size() == 1 ? parts[0] : at::cat(parts, 1);
    }

    static void broadcast(comm::Communicator& comm, NetworkFit& fit) {
        const Sender send(comm);
        for (auto* learnt : {&fit.pairs, &fit.samples}) {
            send(learnt->epoch);
            send(learnt->pairs);
            send(learnt->error);
            send(learnt->held_error);
            if (learnt->epoch == 0) continue;
            send.tensor<float>(learnt->parameters);
            send(learnt->scaling.length);
            send(learnt->scaling.gain);
            send(learnt->scaling.offset);
            send(learnt->scaling.slope);
        }
        for (auto* number : {&fit.labelled, &fit.targets, &fit.held_samples, &fit.held_targets, &fit.agreement.pairs})
            send(*number);
        for (auto* numbers : {&fit.agreement.error, &fit.agreement.r2, &fit.agreement.spearman}) send(*numbers);
        for (const auto& [name, values] : trust_datasets) send(fit.trust.*values);
        send(fit.trust.task_label_variance);
        send.tensor<float>(fit.leave_one_out);
        send(fit.seconds);
    }

    void note_cost(const Landmarks& landmarks) {
        cost_ = {};
        for (const double flops : landmarks.flops) cost_.labels += flops;
        cost_.all_labels = cost_.labels / real(landmarks.count()) * real(eligible_rows_);
        const auto learning = [&](const Learnt& learnt, const NetworkShape& shape) {
            return learnt.epoch == 0 ? 0.0 : real(learnt.pairs * std::ssize(learnt.error)) * shape.learning_flops();
        };
        cost_.learning = learning(fit_.pairs, shapes_.pairs) + learning(fit_.samples, shapes_.samples);
        cost_.prediction = network_flops() * real(eligible_rows_ - landmarks.count());
    }

    NetworkSettings settings_;
    embedding::EmbeddingSettings choice_;
    std::vector<std::unique_ptr<embedding::Embedding>> embeddings_;
    std::int64_t width_ = 0;
    influence::Layout layout_;
    NetworkShapes shapes_;
    std::vector<std::int64_t> counts_;       ///< of landmarks, of one fit after the other
    std::vector<std::int64_t> target_rows_;  ///< of the targets' corpus
    std::int64_t eligible_rows_ = 0;
    double model_parameters_ = 0.0;
    bool of_pairs_ = false;     ///< every column is a sample of the pool
    float least_label_ = 0.0F;  ///< of all that are finite
    std::uint64_t seed_ = 0;
    const data::Corpus* targets_ = nullptr;
    Tensor columns_;  ///< (C x e)
    NetworkFit fit_;
    NetworkCost cost_;
    Made pair_network_, sample_network_;
    Tensor right_;  ///< (C) halves of the columns
};

}  // namespace

std::unique_ptr<Propagation> make_network(const options::Values& values) { return std::make_unique<Network>(values); }

}  // namespace idistill::propagation
