#include <boost/test/unit_test.hpp>
#include <functional>
#include <utility>

#include "idistill/base/error.hpp"
#include "idistill/comm/thread_group.hpp"
#include "idistill/data/token_file.hpp"
#include "token_files.hpp"

using namespace idistill;
using namespace idistill::data;
using idistill::test::TemporaryFolder;
using idistill::test::TokenContent;
using idistill::test::write_token_file;

namespace {

constexpr std::int64_t vocabulary = 100;

/// Six samples: one empty, one of a single labelled token, one without labels.
TokenContent small_content() {
    TokenContent content;
    content.add("a", "maths", {1, 2, 3, 4}, {0, 0, 1, 1});
    content.add("b", "ünïcode ✓", {}, {});
    content.add("c", "maths", {99}, {1});
    content.add("d", "code", {5, 6, 7}, {1, 1, 0});
    content.add("é", "code", {8, 9}, {0, 0});
    content.add("f", "a source", {0, 0, 0, 0, 0}, {0, 1, 0, 1, 0});
    return content;
}

Failure failure_of(const std::function<void()>& act) {
    try {
        act();
    } catch (const Error& error) {
        BOOST_TEST(static_cast<int>(error.code()) == static_cast<int>(ExitCode::bad_input));
        return error.failure();
    }
    BOOST_ERROR("no Error was thrown");
    return {};
}

CorpusIndex scan(const std::vector<std::string>& paths, int ranks) {
    std::vector<CorpusIndex> found(static_cast<std::size_t>(ranks));
    comm::run_ranks_as_threads(ranks, [&](comm::Communicator& communicator) {
        Corpus corpus(paths, vocabulary);
        corpus.scan(communicator);
        found[static_cast<std::size_t>(communicator.rank())] = corpus.index();
    });
    for (const CorpusIndex& index : found) {  // every rank holds the whole
        BOOST_TEST((index.labels == found[0].labels && index.source == found[0].source));
        BOOST_TEST(index.content_sha256 == found[0].content_sha256);
    }
    return found[0];
}

/// What a damaged file is refused for: when it is opened, or when it is scanned on two ranks.
Failure refused(const std::function<void(TokenContent&)>& damage) {
    const TemporaryFolder folder;
    TokenContent content = small_content();
    damage(content);
    const std::string path = folder / "tokens.h5";
    write_token_file(path, content);
    Failure failure = failure_of([&] { scan({path}, 2); });
    BOOST_TEST(failure.where == path);
    BOOST_TEST(!failure.remedy.empty());
    return failure;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(data_token_file)

BOOST_AUTO_TEST_CASE(samples_and_strings_are_read_as_written) {
    for (const bool fixed : {false, true}) {
        const TemporaryFolder folder;
        TokenContent content = small_content();
        content.fixed_strings = fixed;
        write_token_file(folder / "t.h5", content);
        const TokenFile file(folder / "t.h5");
        BOOST_TEST(file.size() == 6);
        BOOST_TEST(file.max_length() == 2048);
        BOOST_TEST(file.tokenizer_sha256() == std::string(64, 'a'));
        BOOST_TEST(file.content_sha256() == test::straight_content_sha256(content));
        BOOST_TEST(file.read_ids({0, 6}) == content.ids, boost::test_tools::per_element());
        BOOST_TEST(file.read_sources({1, 3}).front() == "ünïcode ✓");
        const Samples middle = file.read({1, 3});
        BOOST_TEST((middle.tokens == std::vector<std::int32_t>{99, 5, 6, 7}));
        BOOST_TEST((middle.label_mask == std::vector<std::uint8_t>{1, 1, 1, 0}));
        BOOST_TEST((middle.offsets == std::vector<std::int64_t>{0, 0, 1, 4}));
        BOOST_TEST(file.read({6, 0}).size() == 0);
    }
}

BOOST_AUTO_TEST_CASE(a_scan_counts_labels_that_can_be_predicted) {
    const TemporaryFolder folder;
    write_token_file(folder / "t.h5", small_content());
    const CorpusIndex index = scan({folder / "t.h5"}, 1);
    BOOST_TEST((index.tokens == std::vector<std::int32_t>{4, 0, 1, 3, 2, 5}));
    BOOST_TEST((index.labels == std::vector<std::int32_t>{2, 0, 0, 1, 0, 2}));
    BOOST_TEST((index.last_label == std::vector<std::int32_t>{3, -1, -1, 1, -1, 3}));
    BOOST_TEST((index.source_names == std::vector<std::string>{"a source", "code", "maths", "ünïcode ✓"}));
    BOOST_TEST((index.source == std::vector<std::int32_t>{2, 3, 2, 1, 1, 0}));
    BOOST_TEST(index.longest_id == 2);  // bytes of "é"
}

BOOST_AUTO_TEST_CASE(several_files_read_as_one_corpus) {
    const TemporaryFolder folder;
    TokenContent empty;
    TokenContent more;
    more.add("g", "code", {11, 12}, {0, 1});
    more.add("h", "poems", {13}, {0});
    write_token_file(folder / "a.h5", small_content());
    write_token_file(folder / "b.h5", empty);
    write_token_file(folder / "c.h5", more);
    const Corpus corpus({folder / "a.h5", folder / "b.h5", folder / "c.h5"}, vocabulary);
    BOOST_TEST(corpus.size() == 8);
    const Samples across = corpus.read(RowRange{4, 3});
    BOOST_TEST((across.tokens == std::vector<std::int32_t>{8, 9, 0, 0, 0, 0, 0, 11, 12}));
    BOOST_TEST((across.offsets == std::vector<std::int64_t>{0, 2, 7, 9}));
    const Samples picked = corpus.read(std::vector<std::int64_t>{7, 1, 2, 3, 7});
    BOOST_TEST((picked.tokens == std::vector<std::int32_t>{13, 99, 5, 6, 7, 13}));
    BOOST_TEST((picked.offsets == std::vector<std::int64_t>{0, 1, 1, 2, 5, 6}));
    BOOST_TEST((corpus.read_ids({5, 3}) == std::vector<std::string>{"f", "g", "h"}));
    BOOST_TEST(corpus.read(RowRange{0, 0}).size() == 0);
    BOOST_CHECK_THROW((void)corpus.read(RowRange{7, 2}), Error);

    const CorpusIndex index = scan({folder / "a.h5", folder / "b.h5", folder / "c.h5"}, 2);
    BOOST_TEST((index.source_names == std::vector<std::string>{"a source", "code", "maths", "poems", "ünïcode ✓"}));
    BOOST_TEST((index.source == std::vector<std::int32_t>{2, 4, 2, 1, 1, 0, 1, 3}));
    const std::string hashes = test::straight_content_sha256(small_content()) + test::straight_content_sha256(empty) +
                               test::straight_content_sha256(more);
    BOOST_TEST(index.content_sha256 == test::hex_of(test::sha256_of(hashes)));
}

BOOST_AUTO_TEST_CASE(a_file_without_samples_is_a_corpus_of_none) {
    const TemporaryFolder folder;
    write_token_file(folder / "t.h5", TokenContent{});
    for (const int ranks : {1, 3}) {
        const CorpusIndex index = scan({folder / "t.h5"}, ranks);
        BOOST_TEST(index.size() == 0);
        BOOST_TEST(index.source_names.empty());
    }
}

// Three blocks of the content hash in one file and one more in another, with samples of 0..3 tokens.
BOOST_AUTO_TEST_CASE(the_index_is_the_same_for_any_number_of_ranks) {
    const TemporaryFolder folder;
    TokenContent content;
    for (int i = 0; i < 2 * 65'536 + 5; ++i) {
        const std::vector<std::int32_t> sample(static_cast<std::size_t>(i % 4), i % static_cast<int>(vocabulary));
        const std::vector<std::uint8_t> mask(sample.size(), static_cast<std::uint8_t>(i / 7 % 2));
        content.add(std::to_string(i) + " id", std::to_string(i / 30'000) + " source", sample, mask);
    }
    write_token_file(folder / "big.h5", content);
    write_token_file(folder / "small.h5", small_content());
    const std::vector<std::string> paths{folder / "big.h5", folder / "small.h5"};
    const CorpusIndex one = scan(paths, 1);
    BOOST_TEST(one.size() == 2 * 65'536 + 5 + 6);
    BOOST_TEST(one.labels[7 + 4] == 2);  // three tokens, all labelled, the first cannot be predicted
    BOOST_TEST(one.last_label[7 + 4] == 2);
    for (const int ranks : {2, 3, 5}) {
        const CorpusIndex index = scan(paths, ranks);
        BOOST_TEST((index.tokens == one.tokens && index.labels == one.labels && index.last_label == one.last_label));
        BOOST_TEST((index.source == one.source && index.source_names == one.source_names));
        BOOST_TEST(index.longest_id == 9);
        BOOST_TEST(index.content_sha256 == one.content_sha256);
    }
}

// More tokens in one block than are read at once.
BOOST_AUTO_TEST_CASE(a_block_larger_than_one_read_has_the_same_hash) {
    const TemporaryFolder folder;
    TokenContent content;
    content.max_length = 300'000;
    for (int i = 0; i < 60; ++i) {
        content.add(std::to_string(i), "long", std::vector<std::int32_t>(290'000, i),
                    std::vector<std::uint8_t>(290'000, static_cast<std::uint8_t>(i % 2)));
    }
    write_token_file(folder / "t.h5", content);
    const CorpusIndex index = scan({folder / "t.h5"}, 2);
    BOOST_TEST(index.labels[58] == 0);
    BOOST_TEST(index.labels[59] == 289'999);
    BOOST_TEST(index.last_label[59] == 289'999);
}

BOOST_AUTO_TEST_CASE(wrong_attributes_are_named) {
    auto failure = refused([](TokenContent& content) { content.format = "something"; });
    BOOST_TEST(failure.field == "attribute format");
    BOOST_TEST(failure.expected == "idistill-tokens");
    BOOST_TEST(failure.found == "something");
    failure = refused([](TokenContent& content) { content.version = 2; });
    BOOST_TEST(failure.field == "attribute version");
    BOOST_TEST(failure.found == "2");
    for (const std::string name : {"format", "version", "tokenizer_sha256", "max_length", "content_sha256"}) {
        BOOST_TEST(refused([&](TokenContent& content) { content.leave_out = name; }).field ==
                   std::string("attribute ").append(name));
    }
}

BOOST_AUTO_TEST_CASE(missing_and_mistyped_datasets_are_named) {
    for (const std::string name : {"/tokens", "/label_mask", "/offsets", "/id", "/source"}) {
        const auto failure = refused([&](TokenContent& content) { content.leave_out = name; });
        BOOST_TEST(failure.field == name);
        BOOST_TEST(failure.found == "nothing");
    }
    const auto failure = refused([](TokenContent& content) { content.wide_tokens = true; });
    BOOST_TEST(failure.field == "/tokens");
    BOOST_TEST(failure.expected == "int32 values");
    BOOST_TEST(failure.found == "int64");
}

BOOST_AUTO_TEST_CASE(sizes_and_offsets_must_fit_together) {
    auto failure = refused([](TokenContent& content) { content.offsets[2] = 3; });
    BOOST_TEST(failure.field == "/offsets[2]");
    BOOST_TEST(failure.expected == "at least 4");
    BOOST_TEST(failure.found == "3");
    failure = refused([](TokenContent& content) { content.offsets[0] = 1; });
    BOOST_TEST(failure.field == "/offsets[0]");
    failure = refused([](TokenContent& content) { content.offsets.back() += 1; });
    BOOST_TEST(failure.field == "/offsets[6]");
    BOOST_TEST(failure.expected == "15 (the size of /tokens)");
    BOOST_TEST(failure.found == "16");
    BOOST_TEST(refused([](TokenContent& content) { content.label_mask.pop_back(); }).field == "/label_mask");
    BOOST_TEST(refused([](TokenContent& content) {
                   content.ids.pop_back();
                   content.content_sha256 = "none";
               }).field == "/id");
    BOOST_TEST(refused([](TokenContent& content) { content.sources.push_back("more"); }).field == "/source");
    BOOST_TEST(refused([](TokenContent& content) { content.max_length = 4; }).field == "sample 5");
}

BOOST_AUTO_TEST_CASE(bad_values_are_named_with_their_sample) {
    auto failure = refused([](TokenContent& content) { content.tokens[5] = 100; });
    BOOST_TEST(failure.field == "/tokens, sample 3");
    BOOST_TEST(failure.found == "100");
    failure = refused([](TokenContent& content) { content.tokens[4] = -1; });
    BOOST_TEST(failure.field == "/tokens, sample 2");
    BOOST_TEST(failure.found == "-1");
    failure = refused([](TokenContent& content) { content.label_mask[14] = 2; });
    BOOST_TEST(failure.field == "/label_mask, sample 5");
    BOOST_TEST(failure.found == "2");
}

BOOST_AUTO_TEST_CASE(a_changed_content_does_not_fit_its_hash) {
    const std::string hash = test::straight_content_sha256(small_content());
    const std::vector<std::function<void(TokenContent&)>> changes{
        [](TokenContent& content) { content.tokens[0] = 2; },
        [](TokenContent& content) { content.label_mask[0] = 1; },
        [](TokenContent& content) { content.offsets[1] = 3; },
        [](TokenContent& content) { content.ids[3] = "dd"; },
        [](TokenContent& content) { content.sources[3] = "Code"; },
        [](TokenContent& content) { std::swap(content.ids[0], content.ids[1]); },
    };
    for (const auto& change : changes) {
        const auto failure = refused([&](TokenContent& content) {
            change(content);
            content.content_sha256 = hash;
        });
        BOOST_TEST(failure.field == "attribute content_sha256");
        BOOST_TEST(failure.expected == hash);
        BOOST_TEST(failure.found != hash);
    }
}

BOOST_AUTO_TEST_CASE(an_id_twice_is_named_with_both_places) {
    const auto failure = refused([](TokenContent& content) { content.ids[4] = content.ids[1]; });
    BOOST_TEST(failure.field == "/id, sample 4");
    BOOST_TEST(failure.found.find("b, the id of sample 1 of ") == 0U);

    const TemporaryFolder folder;
    TokenContent more;
    more.add("new", "code", {1, 2}, {0, 1});
    more.add("d", "code", {1, 2}, {0, 1});
    write_token_file(folder / "a.h5", small_content());
    write_token_file(folder / "b.h5", more);
    for (const int ranks : {1, 2, 3}) {
        const auto across = failure_of([&] { scan({folder / "a.h5", folder / "b.h5"}, ranks); });
        BOOST_TEST(across.where == folder / "b.h5");
        BOOST_TEST(across.field == "/id, sample 1");
        BOOST_TEST(across.found == std::string("d, the id of sample 3 of ").append(folder / "a.h5"));
    }
}

BOOST_AUTO_TEST_CASE(a_file_that_is_not_whole_is_refused) {
    const TemporaryFolder folder;
    const std::string path = folder / "t.h5";
    BOOST_TEST(failure_of([&] { const TokenFile file(path); }).found == "no such file");
    write_token_file(path, small_content());
    const auto size = std::filesystem::file_size(path);
    for (const std::uintmax_t kept : {size - 1, size / 2, std::uintmax_t{100}, std::uintmax_t{0}}) {
        std::filesystem::resize_file(path, kept);
        const auto failure = failure_of([&] { const TokenFile file(path); });
        BOOST_TEST(failure.where == path);
        BOOST_TEST(failure.expected == "a whole HDF5 file");
        BOOST_TEST(!failure.found.empty());
    }
}

BOOST_AUTO_TEST_SUITE_END()
