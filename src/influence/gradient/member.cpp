// The gradient influence.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "idistill/base/error.hpp"
#include "idistill/influence/gradient/options.hpp"
#include "idistill/influence/members.hpp"
#include "idistill/io/result_datasets.hpp"
#include "on_columns.hpp"
#include "targets.hpp"

namespace idistill::influence {

Member gradient_member();  // listed in members.cpp

namespace {

/// What a column of the Hessian's factor counts in Q: the sign of its mu, as the factor has its size; 0 for 0.
std::vector<double> signs_of(const std::vector<double>& values) {
    std::vector<double> signs;
    for (const double mu : values) signs.push_back(mu == 0.0 ? 0.0 : std::copysign(1.0, mu));
    return signs;
}

template <class T>
std::vector<T> read_finite(const io::ResultReader& result, const std::string& dataset, std::int64_t count) {
    result.require<T>(dataset, {count});
    auto values = result.read<T>(dataset);
    for (const T value : values)
        if (!std::isfinite(value)) result.refuse(dataset, "finite numbers", fmt::format("{}", value));
    return values;
}

class GradientInfluence final : public Influence {
public:
    explicit GradientInfluence(const options::Values& values) : values_(values) {}

    void plan(model::Planner& planner, const Wanted& wanted) override {
        plan_ = plan_gradients(values_, planner, wanted);
        layout_.columns = inputs().columns == options::ColumnKind::tasks ? plan_.tasks : plan_.targets();
        layout_.extras = {{.dataset = "/gradient_norm", .width = 1, .logarithmic = true}};
        if (plan_.curvature_columns > 0)
            layout_.extras.push_back({.dataset = factor_dataset, .width = plan_.curvature_columns});
        // Both propagate better than their product (Spearman 0.87 against 0.81 on a real pool).
        layout_.per_unit = !cosine();
        cost_.emplace(planner.model, plan_.layers, settings().sketch, plan_.sketch);
        model_config_ = planner.model;
        datasets().plan(planner.plan);
    }

    [[nodiscard]] const Layout& layout() const override { return layout_; }

    [[nodiscard]] double flops(const data::CorpusIndex& pool, std::int64_t row) const override {
        return exact_flops(plan_, *cost_, layout_, pool, row);
    }

    [[nodiscard]] plan::PassBytes pass_bytes(const plan::Batch& largest) const override {
        return influence::pass_bytes(settings(), plan_, model_config_, largest);
    }
    [[nodiscard]] double unit_bytes(const plan::Batch& largest) const override {
        const auto width = plan_.contracts ? layout_.products() : plan_.sketch.width;
        return model::fp32_bytes * static_cast<double>(width) * static_cast<double>(largest.rows + largest.samples);
    }

    void check_files(const model::ModelConfig& config) const override {
        if (has_optimizer()) OptimizerFile(settings().optimizer, model::chosen_layers(config, settings().parameters));
    }

    void load(comm::Communicator& comm, const model::Decoder& decoder, const data::Corpus& /*pool*/,
              const data::Corpus& /*targets*/) override {
        model::ChosenLayers chosen(decoder.config(), plan_.layers);
        auto optimizer = has_optimizer() ? load_optimizer(comm, "--optimizer", settings().optimizer, plan_.layers)
                                         : LoadedOptimizer{};
        optimizer.preconditioner = optimizer.preconditioner.to(decoder.options().device());
        auto sketch = plan_.contracts ? nullptr
                                      : make_sketch(settings().sketch, plan_.layers, plan_.sketch.width, run().seed,
                                                    decoder.options());
        model_.reset(new GradientModel{decoder, std::move(chosen), std::move(optimizer), std::move(sketch)});
    }

    void identify(nlohmann::json& identity) const override {
        if (!model_->optimizer.sha256.empty()) identity["optimizer sha256"] = model_->optimizer.sha256;
    }

    std::unique_ptr<Columns> columns(const work::Work& work, const data::Corpus& pool,
                                     const data::Corpus& targets) override {
        const Labelling run{values_, plan_, *model_, pool, targets, work};
        auto columns = make_columns(run, label_targets(run));
        say_columns(run, *columns);
        return columns;
    }

    [[nodiscard]] Rows rows(const data::SampleSet& set, const Columns& prepared) const override {
        const auto g = rows_on_columns(*model_, of(prepared), set.samples(), run().batch_tokens);
        return {g.norm.unsqueeze(1),
                at::where(has_direction(g.norm), cosine() ? g.features / g.norm.unsqueeze(1) : g.features,
                          at::full({}, std::numeric_limits<float>::quiet_NaN(), g.features.options()))};
    }

    [[nodiscard]] CurvatureTerms curvature(const Columns& prepared, bool of_extras) const override {
        const auto& columns = of(prepared);
        if (of_extras) return {signs_of(columns.curvature), columns.curvature_step, factor_dataset};
        return {fisher_weights(columns), {columns.step_product.begin(), columns.step_product.end()}, {}};
    }

    [[nodiscard]] CurvatureTerms stored_curvature(const io::ResultReader& result, bool of_extras) const override {
        GradientColumns stored;
        if (of_extras)
            read_hessian(result, stored);
        else
            read_fisher(result, stored);
        return curvature(stored, of_extras);
    }

    void write(io::ResultWriter& writer, const Columns& prepared) const override {
        datasets().write(writer, of(prepared));
        writer.attribute("loss", std::string("mean cross entropy over the label tokens of a sample"));
        if (!model_->optimizer.sha256.empty()) writer.attribute("optimizer_sha256", model_->optimizer.sha256);
    }

private:
    [[nodiscard]] io::ResultDatasets<GradientColumns> datasets() const {
        io::ResultDatasets<GradientColumns> made;
        made.numbers<std::int32_t>("/column/label_tokens", layout_.columns, &GradientColumns::label_tokens);
        made.numbers<float>("/column/gradient_norm", layout_.columns, &GradientColumns::norm);
        if (plan_.step_products > 0)
            made.numbers<float>("/column/step_product", layout_.columns, &GradientColumns::step_product);
        if (plan_.curvature_columns > 0)
            made.numbers<double>("/curvature/value", plan_.curvature_columns, &GradientColumns::curvature);
        if (plan_.curvature_columns > 0 && plan_.preconditioned())
            made.numbers<double>("/curvature/step_product", plan_.curvature_columns, &GradientColumns::curvature_step);
        if (!plan_.contracts) made.numbers<double>("/task/influence_error", plan_.tasks, &GradientColumns::task_error);
        made.numbers<std::int64_t>("/contrast/index", std::ssize(plan_.contrast_rows), &GradientColumns::contrast);
        return made;
    }

    /// (C) What column t of the influence counts in Q with the target Fisher: T_t / M, as H_T ~ (1/M) sum_t T_t g_t
    /// g_t' for losses l_t that are means over T_t tokens. With cosine the target loss is mean_t l_t / |g_t|, whose
    /// Hessian is as much smaller, while the column is short of two factors |g_t|: T_t |g_t| / M.
    [[nodiscard]] std::vector<double> fisher_weights(const GradientColumns& columns) const {
        std::vector<double> weights;
        const auto count = static_cast<double>(columns.norm.size());
        for (std::size_t t = 0; t < columns.norm.size(); ++t)
            weights.push_back(static_cast<double>(columns.label_tokens[t]) *
                              (cosine() ? static_cast<double>(columns.norm[t]) : 1.0) / count);
        return weights;
    }

    void read_fisher(const io::ResultReader& result, GradientColumns& stored) const {
        if (inputs().columns != options::ColumnKind::samples)
            throw Error(
                ExitCode::bad_input,
                {result.path(), "attribute settings", "columns = samples, for --order second-order", "columns = tasks",
                 "Use --order first-order, without --learning-rate, or a result of --columns samples."});
        const auto count = result.width("/influence");
        stored.label_tokens = result.read_bounded<std::int32_t>("/column/label_tokens", count, std::int64_t{1} << 31,
                                                                "numbers of label tokens");
        stored.norm = read_finite<float>(result, "/column/gradient_norm", count);
        for (const float norm : stored.norm)
            if (norm <= 0.0F) result.refuse("/column/gradient_norm", "norms above 0", fmt::format("{}", norm));
        if (has_optimizer()) stored.step_product = read_finite<float>(result, "/column/step_product", count);
    }

    void read_hessian(const io::ResultReader& result, GradientColumns& stored) const {
        if (!result.has("/curvature/value"))
            throw Error(ExitCode::bad_input,
                        {result.path(), "attribute settings", "curvature = hessian, for a selection by it",
                         "a run without", "Use --curvature fisher, or run again with --curvature hessian."});
        const auto count = result.row_count("/curvature/value");
        result.require<float>(factor_dataset, {result.row_count("/influence"), count});
        stored.curvature = read_finite<double>(result, "/curvature/value", count);
        if (has_optimizer()) stored.curvature_step = read_finite<double>(result, "/curvature/step_product", count);
    }

    static const GradientColumns& of(const Columns& columns) { return static_cast<const GradientColumns&>(columns); }
    [[nodiscard]] const GradientSettings& settings() const { return values_.of<GradientSettings>(); }
    [[nodiscard]] const options::InputSettings& inputs() const { return values_.of<options::InputSettings>(); }
    [[nodiscard]] const options::RunSettings& run() const { return values_.of<options::RunSettings>(); }
    [[nodiscard]] bool cosine() const { return settings().normalize == Normalize::cosine; }
    [[nodiscard]] bool has_optimizer() const { return !settings().optimizer.empty(); }

    options::Values values_;
    GradientPlan plan_;
    model::ModelConfig model_config_;
    Layout layout_;
    std::optional<GradientCost> cost_;
    std::unique_ptr<GradientModel> model_;
};

}  // namespace

Member gradient_member() {
    return {.name = "gradient",
            .help = "of a training step on a sample, on the targets' loss",
            .make = [](const options::Values& values) -> std::unique_ptr<Influence> {
                return std::make_unique<GradientInfluence>(values);
            },
            .options = gradient_options,
            .idle = idle_gradient,
            .of_extras = {"curvature-rank"},
            .of_columns = {"sketch", "sketch-dim"}};  // tasks of a whole pool have whole directions
}

}  // namespace idistill::influence
