// The network as a propagation: rank 0 learns, epoch by epoch, which the state keeps; all ranks predict. A column is
// the mean embedding of the targets that it stands for. What belongs to a sample alone - columns of no target, and what
// propagates beside the influence - is learnt by a second network, of e_i.

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <unordered_map>
#include <utility>

#include "fit.hpp"
#include "idistill/base/error.hpp"
#include "idistill/embedding/embedding.hpp"
#include "idistill/embedding/parts.hpp"
#include "idistill/model/cost.hpp"
#include "idistill/propagation/settings.hpp"
#include "pair_similarity.hpp"
#include "report.hpp"
#include "stages.hpp"
#include "training.hpp"

namespace idistill::propagation {

std::unique_ptr<Propagation> make_network(const options::Values& values);  // for options.cpp

namespace {

using torch::Tensor;

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
    [[nodiscard]] plan::PassBytes pass_bytes(const plan::Batch& largest) const override {
        plan::PassBytes most;
        for (const auto& embedding : embeddings_) most = plan::larger(most, embedding->pass_bytes(largest));
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
        const bool in_pool = &pool.index() == &targets_->index();
        if (shapes_.pairs.outputs > 0 && !columns_.defined()) columns_ = column_embeddings(work, tasks, in_pool);
        const auto place = usable_landmarks(work.comm, landmarks, choice_.embedding);
        NetworkFit fit;
        if (work.comm.is_root())
            fit = fit_networks(work, {shapes_, settings_, layout_, columns_, fit_number(landmarks.count()), seed_},
                               landmarks, place, tasks, pool.index(), in_pool);
        broadcast(work.comm, fit);
        work.state.sync();
        fit_ = std::move(fit);
        const auto labels = landmarks.labels.products.narrow(1, 0, std::ssize(tasks.of_column));
        const auto finite = labels.masked_select(at::isfinite(labels));
        label_range_ = {finite.min().item<float>(), finite.max().item<float>()};
        networks_.emplace(shapes_, fit_, columns_);
        note_cost(landmarks);
    }

    [[nodiscard]] Prediction predict(const data::SampleSet& set) const override {
        const auto own = features(set);
        return {from_fitted(networks_->fitted(own), layout_), factor_width() > 0 ? factors(own) : Tensor()};
    }

    /// A deeper network, and a cosine beside it, have no pair whose bits depend on its two samples alone.
    [[nodiscard]] std::int64_t factor_width() const override {
        const bool separable = settings_.depth == 1 && !settings_.residual;
        return of_pairs_ && separable ? 2 * (settings_.symmetric ? 2 : 1) * settings_.width : 0;
    }
    [[nodiscard]] Tensor factors(const Tensor& features) const override {
        const auto& pairs = networks_->of_pairs();
        return at::cat({pairs.left(features), pairs.right(features)}, 1);
    }
    [[nodiscard]] std::unique_ptr<selection::Similarity> similarity(selection::ReadFactors read) const override {
        return pair_similarity(networks_->of_pairs(), label_range_, std::move(read));
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
    [[nodiscard]] Tensor column_embeddings(const work::Work& work, const Tasks& tasks, bool in_pool) const {
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
                             in_pool ? "Embed this sample again or leave it out of the pool: labelled samples are "
                                       "the targets."
                                     : "Leave this sample out of its target file, or use another --embedding."});
            columns.select(0, static_cast<std::int64_t>(column)).copy_(mean);
        }
        return columns;
    }

    [[nodiscard]] std::int64_t fit_number(std::int64_t landmarks) const {
        return std::find(counts_.begin(), counts_.end(), landmarks) - counts_.begin();
    }

    void note_cost(const Landmarks& landmarks) {
        cost_ = {};
        for (const double flops : landmarks.flops) cost_.labels += flops;
        cost_.all_labels = cost_.labels / real(landmarks.count()) * real(eligible_rows_);
        const auto learning = [&](const Learnt& learnt, const NetworkShape& shape) {
            return learnt.epoch == 0 ? 0.0
                                     : real(learnt.pairs * passes_of(learnt.pairs) * std::ssize(learnt.error)) *
                                           shape.learning_flops();
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
    bool of_pairs_ = false;  ///< every column is a sample of the pool
    LabelRange label_range_;
    std::uint64_t seed_ = 0;
    const data::Corpus* targets_ = nullptr;
    Tensor columns_;  ///< (C x e)
    NetworkFit fit_;
    NetworkCost cost_;
    std::optional<Networks> networks_;
};

}  // namespace

std::unique_ptr<Propagation> make_network(const options::Values& values) { return std::make_unique<Network>(values); }

}  // namespace idistill::propagation
